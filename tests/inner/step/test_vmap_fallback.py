"""Losses that `vmap` cannot batch: the same numbers run by run, under every driver."""

import pytest
import torch
from torch import nn

from learned_opt import create_rule
from meta_train.evaluation.curves import train_curves
from meta_train.evaluation.validation.task_validator import TaskValidator
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import start
from meta_train.inner.step import vmap_fallback
from meta_train.inner.step.vmap_fallback import losses_of_runs
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.checkpoint_files import list_checkpoints
from meta_train.runtime.seeding import generator
from meta_train.tasks import ModuleTask


class Reader(nn.Module):
    """A GRU of one fused kernel, with a dropout after it."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.cell = nn.GRU(3, 4, batch_first=True)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.drop(self.cell(x)[0][:, -1]))


class Doubter(nn.Module):
    """Looks at what it computes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2)
        self.norm = nn.BatchNorm1d(2, momentum=None)

    def forward(self, x):
        y = self.norm(self.layer(x.flatten(1)))
        return -y if y.mean() > 10 else y


def make_task(make=Reader):
    inputs = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0))
    return ModuleTask(make, nn.functional.cross_entropy, (inputs, inputs[:, 0, 0].gt(0).long()), 8)


@pytest.fixture(autouse=True)
def nothing_refused(monkeypatch):
    monkeypatch.setattr(vmap_fallback, "_refused", set())


@pytest.mark.parametrize("make", [Reader, Doubter])
@pytest.mark.parametrize("second_order", [False, True])
def test_steps_of_many_runs_are_those_of_each(make, second_order):
    task = make_task(make)
    torch.manual_seed(0)
    rule = create_rule("adam-lstm")
    problems = [task.sample(generator(k), torch.device("cpu")) for k in range(3)]
    batches = [problem.draw(generator("batch", k)) for k, problem in enumerate(problems)]
    stacked = [torch.stack(part) for part in zip(*batches, strict=True)]
    loop = InnerLoop(rule, task.loss, True, second_order=second_order, differentiable=True)

    def outcome(loop, inner, batch):
        after, losses = loop.step(inner, batch)
        after, last = loop.step(after, batch)
        rule.zero_grad()
        (losses + last).sum().backward()
        return last.detach(), [weight.grad.clone() for weight in rule.parameters()], after

    together, gradients, after = outcome(loop, start(rule, problems, vectorize=True), stacked)
    assert vmap_fallback._refused  # else nothing is tested here
    alone = InnerLoop(rule, task.loss, False, second_order=second_order, differentiable=True)
    each = [
        outcome(alone, start(rule, [problem], vectorize=False), batch)
        for problem, batch in zip(problems, batches, strict=True)
    ]
    torch.testing.assert_close(together, torch.stack([one[0] for one in each]))
    torch.testing.assert_close(
        gradients, [sum(parts) for parts in zip(*(one[1] for one in each), strict=True)]
    )
    for key, value in after.buffers.items():
        torch.testing.assert_close(value, torch.stack([one[2].buffers[key] for one in each]))


@pytest.mark.parametrize("vectorize", ["auto", "never"])
@pytest.mark.parametrize("estimator", ["truncated", "full", "es", "pes"])
def test_every_estimator_trains_on_it_and_it_is_watched(tmp_path, estimator, vectorize):
    settings = TrainSettings(
        estimator=estimator, outer_steps=2, runs=2, horizons=(4,), truncation_length=2, 
        gates_every=1, vectorize=vectorize,
    )  # fmt: skip
    torch.manual_seed(0)
    rule = create_rule("gated-lstm")
    before = [weight.clone() for weight in rule.parameters()]
    trainer = MetaTrainer(rule, make_task(), settings, folder=tmp_path)
    trainer.train(progress=False)
    assert trainer.meta_optimizer.skipped == 0
    assert any(
        not torch.equal(old, new) for old, new in zip(before, rule.parameters(), strict=True)
    )


def test_it_is_validated_and_compared():
    task, rule = make_task(), create_rule("sgd")
    together = train_curves(rule, task, seeds=range(2), steps=3, device=torch.device("cpu")).losses
    alone = [
        train_curves(rule, task, seeds=range(k, k + 1), steps=3, device=torch.device("cpu")).losses
        for k in range(2)
    ]
    torch.testing.assert_close(together, torch.cat(alone, 1))
    trainer = MetaTrainer(create_rule("adam-lstm"), task, TrainSettings(outer_steps=1))
    assert TaskValidator(task, 3, torch.device("cpu"))(trainer.meta_parameters) != 0


def test_a_run_that_is_resumed_draws_what_the_unbroken_one_drew(tmp_path):
    task = make_task(lambda: Reader(dropout=0.5))

    def make_trainer():
        torch.manual_seed(0)
        settings = TrainSettings(
            outer_steps=4,
            runs=2,
            horizons=(4,),
            truncation_length=2,
            checkpoint_every=2,
            keep_checkpoints=3,
        )
        return MetaTrainer(create_rule("adam-lstm"), task, settings, folder=tmp_path)

    whole = make_trainer().train(progress=False)
    list_checkpoints(tmp_path / "checkpoints")[-1].unlink()
    vmap_fallback._refused.clear()  # as in another process
    resumed = make_trainer()
    assert resumed.resume() and resumed.outer_step == 2
    for a, b in zip(whole.parameters(), resumed.train(progress=False).parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_the_loss_itself_raises_comes_out_and_is_not_remembered():
    def wrong(parameters, buffers, batch):
        return (parameters["w"] @ batch).sum(), buffers

    parameters = {"w": torch.ones(2, 3)}
    with pytest.raises(RuntimeError, match="size"):
        losses_of_runs(wrong, parameters, {}, torch.ones(2, 4))
    assert not vmap_fallback._refused
