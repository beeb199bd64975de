"""What TensorBoard is given, read back; and what the progress bar shows."""

import time

import pytest
import torch
from full_disk import full_disk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from test_trainer import SometimesExplodes, make_trainer

from learned_opt import create_rule
from meta_train.evaluation.validation.task_validator import TaskValidator
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import Mixture, create_task


def read(folder, run="meta-training"):
    sizes = {"scalars": 0, "images": 0, "tensors": 0}
    return EventAccumulator(str(folder / "tensorboard" / run), sizes).Reload()


def steps_of(events, tag):
    return [event.step for event in events.Scalars(tag)]


def test_everything_to_watch_is_there(tmp_path):
    task = create_task("quadratic", dimensions=4)
    trainer = make_trainer(
        tmp_path,
        task=task,
        outer_steps=40,
        validate_every=20,
        gates_every=10,
        validate=TaskValidator(task, 5, torch.device("cpu")),
    )
    trainer.train(progress=False)
    events = read(tmp_path)
    # One family, no divergence, no skipped step: nothing that repeats or never moves is there.
    assert set(events.Tags()["scalars"]) == {
        "curves/meta_loss",
        "curves/validation_loss",
        "curves/mean_inner_loss",
        "outer/gradient_norm",
        "outer/lr",
        "outer/horizon",
        "outer/inner_steps_per_second",
    }
    assert steps_of(events, "curves/meta_loss") == [10, 20, 30, 40]
    assert steps_of(events, "curves/validation_loss") == [20, 40]
    assert [image.step for image in events.Images("curves/validation")] == [20, 40]
    assert [image.step for image in events.Images("heat_maps/lstm_forget")] == [10, 20, 40]
    assert all(event.value > 0 for event in events.Scalars("outer/gradient_norm"))
    tensor = read(tmp_path, "tensors/theta")
    assert steps_of(tensor, "quantiles/lstm_forget/mean") == [10, 20, 30, 40]
    assert steps_of(tensor, "update_to_weight_log10") == [10, 20, 30, 40]
    assert layout_of(events) == {
        "Meta-training": ["meta-loss", "validation loss"],
        "Gates by tensor": [  # shown from last to first, see stored_order
            "lstm output gate: mean, 10% and 90%",
            "lstm forget gate: mean, 10% and 90%",
            "lstm input gate: mean, 10% and 90%",
        ],
        "Steps by tensor": [
            "effective learning rate: log10 of update / gradient",
            "log10 of update / weight",
        ],
        "Trouble": ["norm of the meta-gradient"],
    }


def layout_of(events):
    """Titles of charts by category, as the newest layout has them."""
    newest = events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0]
    categories = Layout.FromString(newest).category
    return {one.title: [chart.title for chart in one.chart] for one in categories}


def test_a_validation_that_cannot_be_drawn_is_a_warning(tmp_path, monkeypatch):
    def fail(_):
        raise ValueError("no such backend")

    monkeypatch.setattr(TaskValidator, "figure", fail)
    task = create_task("quadratic", dimensions=4)
    validate = TaskValidator(task, 5, torch.device("cpu"))
    trainer = make_trainer(tmp_path, task=task, validate_every=2, validate=validate)
    with pytest.warns(UserWarning, match="draw curves/validation: ValueError: no such backend"):
        trainer.train(progress=False)
    events = read(tmp_path)
    assert steps_of(events, "curves/validation_loss") and not events.Tags()["images"]
    assert steps_of(events, "curves/validation_loss")[-1] == trainer.outer_step


@pytest.mark.parametrize("estimator", ["truncated", "full", "es"])
def test_a_fresh_run_is_trained_from_its_beginning(tmp_path, monkeypatch, estimator):
    seen = {}

    def add(self, rule, run, outer_step):
        seen[outer_step] = [
            (step, int(probe.states[0]["step"]), float(probe.context.total_steps))
            for step, probe in run
            if probe.parameters[0].shape == (4,) and probe.gradients[0].isfinite().all()
        ]

    monkeypatch.setattr("meta_train.outer.rule_log.RuleLog.add", add)
    settings = {"estimator": estimator, "horizons": (3,), "gates_every": 2}
    if estimator != "truncated":
        settings["param_rescale_range"] = 0.0
    else:
        settings["truncation_length"] = 3
    make_trainer(tmp_path, outer_steps=4, **settings).train(progress=False)
    assert seen == dict.fromkeys((2, 4), [(0, 0, 3.0), (1, 1, 3.0), (2, 2, 3.0)])


def test_of_a_long_run_two_hundred_steps_are_taken_and_fifty_are_probed(tmp_path, monkeypatch):
    seen = []

    def add(self, rule, run, outer_step):
        seen.extend((step, float(probe.context.total_steps)) for step, probe in run)

    monkeypatch.setattr("meta_train.outer.rule_log.RuleLog.add", add)
    settings = {"horizons": (900,), "truncation_length": 900, "estimator": "full", "runs": 1}
    trainer = make_trainer(tmp_path, outer_steps=1, gates_every=1, **settings)
    trainer.train(progress=False)
    assert seen == [(step, 200.0) for step in range(0, 200, 4)]


def test_a_fresh_run_changes_no_run(tmp_path):
    ends = []
    for every in (0, 1):
        torch.manual_seed(0)
        trainer = make_trainer(tmp_path / str(every), outer_steps=6, gates_every=every)
        trainer.train(progress=False)
        ends.append(torch.cat([p.detach().flatten() for p in trainer.rule.parameters()]))
    assert torch.equal(*ends)


@pytest.fixture
def mixture():
    return Mixture(
        {"a": create_task("quadratic", dimensions=3), "b": create_task("quadratic", dimensions=5)}
    )


def test_losses_of_groups_that_share_a_family_are_averaged(tmp_path, mixture):
    torch.manual_seed(0)
    settings = TrainSettings(
        outer_steps=10,
        groups=5,
        runs=2,
        horizons=(40,),
        truncation_length=4,
        gates_every=5,
        max_minutes=60.0,
    )
    rule = create_rule("adam-lstm", hidden_size=3)
    trainer = MetaTrainer(rule, mixture, settings, folder=tmp_path, device="cpu")
    counts = dict.fromkeys("ab", 0)
    step = trainer.meta_optimizer.step

    def count(*arguments, **named):
        for member in trainer.groups.members:
            counts[member.name] += 1
        return step(*arguments, **named)

    trainer.meta_optimizer.step = count
    trainer.train(progress=False)
    assert min(counts.values()) > 10  # more than one group in some step
    events = read(tmp_path)
    values = {name: events.Scalars(f"family/{name}")[0].value for name in counts}
    mean = sum(values[name] * counts[name] for name in counts) / sum(counts.values())
    assert events.Scalars("curves/meta_loss")[0].value == pytest.approx(mean, rel=1e-5)


def test_curves_of_steps_that_are_taken_again_do_not_double(tmp_path):
    settings = {"outer_steps": 60, "checkpoint_every": 30, "validate_every": 20, "gates_every": 10}
    validate = lambda meta_parameters: 1.0  # noqa: E731
    broken = make_trainer(tmp_path, validate=validate, **settings)
    take = broken.take_outer_step

    class Enough(Exception):
        pass

    def take_or_stop(**flags):
        if broken.outer_step == 45:
            raise Enough
        return take(**flags)

    broken.take_outer_step = take_or_stop
    with pytest.raises(Enough):
        broken.train(progress=False)
    assert steps_of(read(tmp_path), "curves/meta_loss") == [10, 20, 30, 40]
    time.sleep(1.1)  # files are told apart by the second
    resumed = make_trainer(tmp_path, validate=validate, **settings)
    assert resumed.resume()
    resumed.train(progress=False)
    events = read(tmp_path)
    assert steps_of(events, "curves/meta_loss") == [10, 20, 30, 40, 50, 60]
    assert steps_of(events, "curves/validation_loss") == [20, 40, 60]
    # Of a finished run nothing is written again.
    again = make_trainer(tmp_path, validate=validate, **settings)
    assert again.resume()
    again.train(progress=False)
    assert steps_of(read(tmp_path), "curves/validation_loss") == [20, 40, 60]


def test_what_was_logged_before_a_checkpoint_is_on_disk_with_it(tmp_path):
    trainer = make_trainer(tmp_path, outer_steps=30, checkpoint_every=20)
    seen = []
    take = trainer.take_outer_step

    def look(**flags):
        if trainer.outer_step == 20:
            seen.append(steps_of(read(tmp_path), "curves/meta_loss"))
        return take(**flags)

    trainer.take_outer_step = look
    trainer.train(progress=False)
    assert seen == [[10, 20]]


def test_a_disk_that_is_full_for_tensorboard_is_told_once_and_does_not_end_the_run(tmp_path):
    settings = {"gates_every": 5, "validate_every": 10, "validate": lambda _: 1.0}
    trainer = make_trainer(tmp_path, outer_steps=40, **settings)
    logger_calls = ("log_step", "log_validation", "log_gates", "flush", "close")
    take = trainer.take_outer_step

    def fill_the_disk(call):
        def logged(*arguments):
            with full_disk():  # for TensorBoard alone: checkpoints find room
                return call(*arguments)

        return logged

    def sabotage(**flags):
        if trainer.outer_step == 15:
            for name in logger_calls:
                setattr(trainer.logger, name, fill_the_disk(getattr(trainer.logger, name)))
        return take(**flags)

    trainer.take_outer_step = sabotage
    with pytest.warns(UserWarning) as caught:
        trainer.train(progress=False)
    assert [str(w.message) for w in caught] == [
        f"could not write to {tmp_path / 'tensorboard'}: File too large; training goes on without "
        "TensorBoard"
    ]
    assert trainer.outer_step == 40
    assert steps_of(read(tmp_path), "curves/meta_loss") == [10]
    assert steps_of(read(tmp_path), "curves/validation_loss") == [10]
    resumed = make_trainer(tmp_path, outer_steps=40, **settings)
    assert resumed.resume()
    assert resumed.outer_step == 40


def test_a_folder_that_cannot_be_made_is_told_and_does_not_end_the_run(tmp_path):
    (tmp_path / "tensorboard").write_text("mine")
    trainer = make_trainer(tmp_path, outer_steps=10, gates_every=5)
    with pytest.warns(
        UserWarning, match="tensorboard: Not a directory; training goes on"
    ) as caught:
        trainer.train(progress=False)
    assert len(caught) == 1 and trainer.outer_step == 10


def last(events, tag):
    return events.Scalars(tag)[-1].value


def test_skipped_steps_and_the_learning_rate_are_logged(tmp_path):
    trainer = make_trainer(tmp_path, outer_steps=20, outlier_factor=1e-9, schedule="constant")
    trainer.train(progress=False)
    events = read(tmp_path)
    assert [event.value for event in events.Scalars("outer/skipped")] == [10, 20]
    rates = [event.value for event in events.Scalars("outer/lr")]
    assert rates == pytest.approx([0.0025, 0.005])  # warmed up over 20 steps


def test_diverged_runs_are_counted_over_all_steps(tmp_path):
    trainer = make_trainer(
        tmp_path, task=SometimesExplodes(), runs=4, param_rescale_range=0.0, outer_steps=10
    )
    trainer.train(progress=False)
    assert last(read(tmp_path), "outer/diverged") == trainer.diverged > 4


def test_the_progress_bar_shows_the_loss_and_when_the_time_limit_ends_the_run(capsys):
    make_trainer(outer_steps=2, max_minutes=90.0).train()
    shown = capsys.readouterr().err
    assert "meta-training: 100%" in shown
    assert "2/2" in shown
    assert "meta-loss=" in shown
    assert "time limit in 1:29:5" in shown
