"""The outer loop: it learns, resumes bitwise, survives bad luck."""

import math
import os
import signal

import pytest
import torch

from learned_opt import create_rule
from meta_train.evaluation.curves import train_curves
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.signals import Interrupted
from meta_train.tasks import ModuleTask, create_task
from meta_train.tasks.base import Problem, Task

SETTINGS = {
    "outer_steps": 6,
    "runs": 3,
    "horizons": (4, 8),
    "truncation_length": 4,
    "validate_every": 3,
    "checkpoint_every": 2,
    "max_minutes": 60.0,
}


def make_trainer(folder=None, task=None, seed=0, validate=None, **settings):
    torch.manual_seed(seed)
    rule = create_rule("adam-lstm", hidden_size=4)
    task = task or create_task("quadratic", dimensions=4)
    settings = TrainSettings(**{**SETTINGS, **settings})
    return MetaTrainer(rule, task, settings, folder=folder, validate=validate, device="cpu")


def weights(trainer):
    return [weight.detach().clone() for weight in trainer.rule.parameters()]


def test_meta_training_lowers_the_loss_on_problems_it_has_not_seen():
    task = create_task("quadratic", dimensions=4)
    trainer = make_trainer(
        task=task, outer_steps=60, horizons=(8,), truncation_length=8, param_rescale_range=0.0
    )

    def mean_loss(rule):
        curves = train_curves(rule, task, seeds=range(16), steps=8)
        return float(curves.losses.log().mean())

    before = mean_loss(trainer.rule)
    trainer.train(progress=False)
    assert mean_loss(trainer.average.rule) < before - 0.1


@pytest.mark.parametrize("stop_at", [0, 2, 4])
def test_resumed_run_equals_the_unbroken_one_bitwise(tmp_path, stop_at):
    unbroken = make_trainer(tmp_path / "a")
    unbroken.train(progress=False)

    class Enough(Exception):
        pass

    broken = make_trainer(tmp_path / "b")
    take = broken.take_outer_step

    def take_or_stop(**flags):
        if broken.outer_step == stop_at + 1:  # one step past the checkpoint is lost and redone
            raise Enough
        return take(**flags)

    broken.take_outer_step = take_or_stop
    with pytest.raises(Enough):
        broken.train(progress=False)

    resumed = make_trainer(tmp_path / "b")
    assert resumed.resume()
    assert resumed.outer_step == stop_at
    resumed.train(progress=False)
    for one, other in zip(weights(resumed), weights(unbroken), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(resumed.average.parameters(), unbroken.average.parameters(), strict=True):
        assert torch.equal(one, other)


def test_resume_refuses_a_checkpoint_of_another_rule(tmp_path):
    make_trainer(tmp_path).train(progress=False)
    other = MetaTrainer(
        create_rule("adam-lstm", hidden_size=5),
        create_task("quadratic", dimensions=4),
        TrainSettings(**SETTINGS),
        folder=tmp_path,
        device="cpu",
    )
    with pytest.raises(ValueError, match="rule_settings"):
        other.resume()


def test_resume_needs_no_particular_initial_weights(tmp_path):
    first = make_trainer(tmp_path)
    first.train(progress=False)
    again = make_trainer(tmp_path, seed=1)
    assert again.resume()
    for one, other in zip(weights(again), weights(first), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"task": create_task("quadratic", dimensions=5)}, "task.dimensions=4, not 5"),
        # Of tensors of the same shapes.
        ({"task": create_task("quadratic", dimensions=4, condition=9.0)}, "task.condition=None"),
        ({"runs": 2}, "runs=3"),
        ({"truncation_length": 2}, "truncation_length=4"),
    ],
)
def test_resume_refuses_another_task_or_other_settings(tmp_path, change, named):
    make_trainer(tmp_path).train(progress=False)
    with pytest.raises(ValueError, match=named):
        make_trainer(tmp_path, **change).resume()


def test_a_finished_run_can_be_made_longer(tmp_path):
    make_trainer(tmp_path).train(progress=False)
    longer = make_trainer(tmp_path, outer_steps=8)
    assert longer.resume()
    longer.train(progress=False)
    assert longer.outer_step == 8


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path):
    assert not make_trainer(tmp_path).resume()
    assert not make_trainer(None).resume()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_leaves_a_checkpoint_of_the_step_in_hand(tmp_path, number):
    trainer = make_trainer(tmp_path, outer_steps=10_000, checkpoint_every=10_000)
    take = trainer.take_outer_step

    def take_and_kill(**flags):
        record = take(**flags)
        if record.outer_step == 3:
            os.kill(os.getpid(), number)
        return record

    trainer.take_outer_step = take_and_kill
    with pytest.raises(Interrupted) as stopped:
        trainer.train(progress=False)
    assert str(stopped.value) == (
        f"stopped by {signal.Signals(number).name} after outer step {trainer.outer_step}; "
        f"the checkpoint is in {tmp_path}/checkpoints: trainer.resume() before trainer.train() "
        "continues"
    )
    resumed = make_trainer(tmp_path, outer_steps=10_000, checkpoint_every=10_000)
    assert resumed.resume()
    assert resumed.outer_step == trainer.outer_step
    for one, other in zip(weights(resumed), weights(trainer), strict=True):
        assert torch.equal(one, other)


def test_a_stop_that_saved_nothing_names_no_checkpoint():
    trainer = make_trainer(None, outer_steps=10_000)
    take = trainer.take_outer_step

    def take_and_stop(**flags):
        os.kill(os.getpid(), signal.SIGINT)
        return take(**flags)

    trainer.take_outer_step = take_and_stop
    with pytest.raises(Interrupted, match=r"^stopped by SIGINT after outer step \d+$"):
        trainer.train(progress=False)


class SometimesExplodes(Task):
    """Every other problem's loss is infinite from its third batch on."""

    def __init__(self):
        self.count = 0

    def sample(self, generator, device):
        self.count += 1
        bad = self.count % 2 == 0
        calls = [0]

        def draw(_):
            calls[0] += 1
            return torch.tensor(math.inf if bad and calls[0] > 2 else 1.0)

        return Problem({"theta": torch.ones(3)}, {}, self.loss, draw, lambda: torch.ones(()))

    @staticmethod
    def loss(parameters, buffers, batch):
        return parameters["theta"].square().sum() * batch, buffers


@pytest.mark.parametrize("second_order", [False, True])
def test_diverging_runs_are_counted_replaced_and_kept_out(second_order):
    trainer = make_trainer(
        task=SometimesExplodes(), runs=4, param_rescale_range=0.0, second_order=second_order
    )
    trainer.train(progress=False)
    assert trainer.diverged > 0
    assert trainer.outer_step == 6
    assert all(torch.isfinite(weight).all() for weight in weights(trainer))
    assert trainer.meta_optimizer.skipped == 0


class Steep(Task):
    """Finite losses whose gradients, about 1e24, overflow when a rule squares them."""

    def sample(self, generator, device):
        steep = bool(torch.randint(2, (), generator=generator))
        slope = torch.tensor(1e24 if steep else 1.0)
        theta = torch.full((3,), 1e-24 if steep else 1.0)
        return Problem({"theta": theta}, {}, self.loss, lambda _: slope, lambda: slope)

    @staticmethod
    def loss(parameters, buffers, batch):
        return (parameters["theta"] * batch).square().sum().sqrt(), buffers


@pytest.mark.parametrize("second_order", [False, True])
def test_gradients_that_overflow_inside_a_rule_count_as_divergence(second_order):
    trainer = make_trainer(task=Steep(), runs=6, param_rescale_range=0.0, second_order=second_order)
    trainer.train(progress=False)
    assert trainer.diverged > 0
    assert trainer.meta_optimizer.skipped == 0
    assert all(torch.isfinite(weight).all() for weight in weights(trainer))


def test_a_negative_loss_needs_the_sum_objective():
    data = torch.randn(20, 2), torch.randn(20, 1)
    task = ModuleTask(lambda: torch.nn.Linear(2, 1), lambda out, _: out.mean() - 9.0, data, 4)
    with pytest.raises(ValueError, match='objective="sum"'):
        make_trainer(task=task).train(progress=False)
    make_trainer(task=task, objective="sum").train(progress=False)


def test_a_rule_without_weights_is_refused():
    with pytest.raises(ValueError, match="Adam has no weights"):
        MetaTrainer(create_rule("adam"), create_task("quadratic"), TrainSettings(), device="cpu")


def test_the_learning_rate_follows_steps_not_the_clock():
    trainer = make_trainer(outer_steps=100)
    rate = trainer.meta_optimizer.learning_rate(50)
    trainer.seconds = 1e9
    assert trainer.meta_optimizer.learning_rate(50) == rate


def test_the_best_average_on_validation_is_returned():
    values = iter([1.0, 5.0])
    seen = []

    def validate(meta_parameters):
        seen.append([weight.clone() for weight in meta_parameters.parameters()])
        return next(values)

    best = make_trainer(validate=validate).train(progress=False)
    assert len(seen) == 2
    for kept, first in zip(best.parameters(), seen[0], strict=True):
        assert torch.equal(kept, first)


def test_time_limit_stops_the_run(capsys):
    trainer = make_trainer(outer_steps=100_000, max_minutes=1 / 600)
    trainer.train(progress=False)
    assert 0 < trainer.outer_step < 100_000
    assert "the time limit of 0.00166667 minutes" in capsys.readouterr().out
    taken = trainer.outer_step
    trainer.train(progress=False)
    assert trainer.outer_step == taken
    expected = f"nothing to train after outer step {taken}: the time limit of 0.00166667 minutes"
    assert f"{expected} (max_minutes) is reached" in capsys.readouterr().out


def test_a_finished_run_says_that_nothing_is_left_to_train(capsys):
    trainer = make_trainer(outer_steps=2)
    trainer.train(progress=False)
    capsys.readouterr()
    trainer.train(progress=False)
    expected = "nothing to train after outer step 2: all outer steps are taken"
    assert expected in capsys.readouterr().out


def test_batch_norm_buffers_are_trained_through():
    def make_module():
        return torch.nn.Sequential(
            torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)
        )

    data = torch.randn(40, 3), torch.randn(40, 1)
    task = ModuleTask(make_module, torch.nn.functional.mse_loss, data, batch_size=8)
    trainer = make_trainer(task=task, horizons=(8,))
    runs = trainer.groups.runs[0]
    before = runs.inner.buffers["1.running_mean"].clone()
    trainer.take_outer_step()
    assert trainer.meta_optimizer.skipped == 0
    assert not torch.equal(before, runs.inner.buffers["1.running_mean"])


def test_a_state_is_loaded_by_another_trainer(tmp_path):
    unbroken = make_trainer(None, restart=0.5)
    unbroken.train(progress=False)
    first = make_trainer(None, restart=0.5)
    for _ in range(3):
        first.take_outer_step()
    second = make_trainer(None, seed=1, restart=0.5)
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        record = second.take_outer_step()
    assert (record.outer_step, second.outer_step) == (6, 6)
    for one, other in zip(weights(second), weights(unbroken), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(second.average.parameters(), unbroken.average.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_record_says_what_happened_in_a_step():
    trainer = make_trainer()
    record = trainer.take_outer_step(late=True)
    assert record.outer_step == 1
    assert record.estimate.counted == 3
    assert record.estimate.inner_steps == 12  # three runs, a window of four steps
    assert (record.estimate.stop, record.estimate.late) == (False, True)
    assert record.families == ("quadratic",)
    assert record.learning_rate == pytest.approx(0.005 * 1 / 20, rel=0.1)
    assert (record.diverged, record.skipped) == (0, 0)
