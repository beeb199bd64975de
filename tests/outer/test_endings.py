"""How meta-training ends: early, of its own accord, or not at all the second time."""

import math

import pytest
import torch
from test_trainer import make_trainer, weights

from meta_train.runtime.checkpoint_files import list_checkpoints
from meta_train.runtime.signals import TrainingStalled
from meta_train.tasks import ModuleTask
from meta_train.tasks.base import Problem, Task


def stuck(meta_parameters):
    """A validation that is never better than the first time."""
    return 1.0


def test_early_stop_stays_stopped_unless_it_is_given_more_patience(tmp_path, capsys):
    common = {"outer_steps": 20, "validate_every": 2, "validate": stuck, "checkpoint_every": 3}
    first = make_trainer(tmp_path, patience=2, **common)
    first.train(progress=False)
    assert first.outer_step == 6
    assert "step 6 of 20: no better validation in the last 2" in capsys.readouterr().out
    again = make_trainer(tmp_path, patience=2, **common)
    assert again.resume()
    again.train(progress=False)
    assert again.outer_step == 6
    longer = make_trainer(tmp_path, patience=4, **common)
    assert longer.resume()
    longer.train(progress=False)
    assert longer.outer_step == 10


def test_early_stop_counts_on_after_a_resume(tmp_path):
    common = {"outer_steps": 20, "validate_every": 2, "patience": 3, "checkpoint_every": 1}
    unbroken = make_trainer(None, validate=stuck, **common)
    unbroken.train(progress=False)
    make_trainer(tmp_path, validate=stuck, **{**common, "outer_steps": 5}).train(progress=False)
    resumed = make_trainer(tmp_path, validate=stuck, **common)
    assert resumed.resume()
    resumed.train(progress=False)
    assert resumed.outer_step == unbroken.outer_step == 8


def test_a_validation_that_is_not_a_number_is_never_the_best():
    values = iter([math.nan, 5.0, math.nan, 7.0])
    trainer = make_trainer(
        validate=lambda meta_parameters: next(values), outer_steps=8, validate_every=2
    )
    trainer.train(progress=False)
    assert trainer.best_value == 5.0


def test_training_a_finished_run_again_changes_nothing(tmp_path):
    calls = []
    trainer = make_trainer(tmp_path, validate=lambda meta_parameters: calls.append(0) or 1.0)
    trainer.train(progress=False)
    before, seen = weights(trainer), len(calls)
    assert trainer.train(progress=False) is trainer.kept.rule
    assert len(calls) == seen
    for one, other in zip(weights(trainer), before, strict=True):
        assert torch.equal(one, other)


def test_too_many_skipped_steps_stop_the_run_with_a_reason_and_a_checkpoint(tmp_path):
    trainer = make_trainer(
        tmp_path, outlier_factor=1e-9, max_consecutive_skips=3, checkpoint_every=100
    )
    before = weights(trainer)
    with pytest.raises(TrainingStalled, match="outer step 3: the last 3 meta-gradients were not"):
        trainer.train(progress=False)
    resumed = make_trainer(
        tmp_path, outlier_factor=1e-9, max_consecutive_skips=10, checkpoint_every=100
    )
    assert resumed.resume()
    assert (resumed.outer_step, resumed.meta_optimizer.skipped_in_a_row) == (3, 3)
    for one, other in zip(weights(resumed), before, strict=True):
        assert torch.equal(one, other)


def test_dropout_in_a_task_resumes_bitwise_too(tmp_path):
    def make_module():
        return torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
        )

    source = torch.Generator().manual_seed(0)
    data = torch.randn(40, 3, generator=source), torch.randn(40, 1, generator=source)
    task = ModuleTask(make_module, torch.nn.functional.mse_loss, data, batch_size=8)
    unbroken = make_trainer(None, task=task)
    unbroken.train(progress=False)
    make_trainer(tmp_path, task=task, outer_steps=6).train(progress=False)
    for path in list_checkpoints(tmp_path / "checkpoints")[1:]:
        path.unlink()
    torch.rand(7)  # what others draw does not matter
    resumed = make_trainer(tmp_path, task=task)
    assert resumed.resume()
    assert resumed.outer_step == 4
    resumed.train(progress=False)
    for one, other in zip(weights(resumed), weights(unbroken), strict=True):
        assert torch.equal(one, other)


class AlwaysExplodes(Task):
    """The loss is infinite from the second batch of a problem on."""

    def sample(self, generator, device):
        calls = [0]

        def draw(_):
            calls[0] += 1
            return torch.tensor(math.inf if calls[0] > 1 else 1.0)

        return Problem({"theta": torch.ones(3)}, {}, self.loss, draw, lambda: torch.ones(()))

    @staticmethod
    def loss(parameters, buffers, batch):
        return parameters["theta"].square().sum() * batch, buffers

    def held_out(self):
        return {"itself": self}


def test_steps_in_which_every_run_diverges_are_skipped_and_end_the_run():
    trainer = make_trainer(task=AlwaysExplodes(), param_rescale_range=0.0, max_consecutive_skips=4)
    before = weights(trainer)
    with pytest.raises(TrainingStalled, match=r"outer step 4: .* 3 runs diverged in the last step"):
        trainer.train(progress=False)
    assert trainer.diverged == 12
    assert not trainer.meta_optimizer.recent_norms
    for one, other in zip(weights(trainer), before, strict=True):
        assert torch.equal(one, other)


def test_a_finished_run_whose_patience_is_over_is_not_made_longer(tmp_path, capsys):
    values = iter(range(100))
    common = {"validate_every": 2, "validate": lambda _: float(next(values)), "patience": 1}
    make_trainer(tmp_path, outer_steps=4, **common).train(progress=False)
    capsys.readouterr()
    longer = make_trainer(tmp_path, outer_steps=8, **common)
    assert longer.resume()
    longer.train(progress=False)
    assert longer.outer_step == 4
    assert "step 4 of 8: no better validation in the last 1" in capsys.readouterr().out
