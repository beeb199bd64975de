"""Hugging Face accelerate: prepare, accumulate, autocast, save_state and load_state."""

import higher
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from conftest import make_batch, make_model, same
from small_rules import each_rule, loss_rule, small_rule, snapshot, steps_taken
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

import learned_opt.differentiable  # noqa: F401
from learned_opt import LearnedOptimizer
from learned_opt.monitoring.monitor import GateMonitor


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Reset the singletons of accelerate, so that tests do not affect each other."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()


class Run:
    def __init__(self, rule, precision="no", accumulate=1):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        self.accelerator = Accelerator(
            cpu=True, mixed_precision=precision, gradient_accumulation_steps=accumulate
        )
        model = make_model()
        optimizer = LearnedOptimizer(model.parameters(), lr=0.1, rule=rule)
        self.model, self.optimizer, self.batches, self.schedule = self.accelerator.prepare(
            model,
            optimizer,
            DataLoader(TensorDataset(*make_batch()), batch_size=2),
            lr_scheduler.CosineAnnealingLR(optimizer, 8),
        )

    def train(self, epochs):
        for _ in range(epochs):
            for inputs, targets in self.batches:
                with self.accelerator.accumulate(self.model):
                    loss = nn.functional.mse_loss(self.model(inputs), targets)
                    self.accelerator.backward(loss)
                    self.optimizer.step(lambda loss=loss: loss.detach())
                    self.schedule.step()
                    self.optimizer.zero_grad()

    def end(self):
        return snapshot(self.accelerator.unwrap_model(self.model), self.optimizer)


def assert_resumes(folder, steps, *setting):
    unbroken = Run(*setting)
    unbroken.train(2)
    stopped = Run(*setting)
    stopped.train(1)
    stopped.accelerator.save_state(folder)
    resumed = Run(*setting)
    resumed.accelerator.load_state(folder)
    assert same(resumed.end(), stopped.end())
    resumed.train(1)
    assert steps_taken(resumed.optimizer) == steps
    assert same(resumed.end(), unbroken.end())


@each_rule
def test_a_run_resumes_bitwise(rule_name, tmp_path):
    assert_resumes(tmp_path, 8, small_rule(rule_name))


def test_a_rule_that_reads_the_loss_resumes_bitwise(tmp_path):
    """The prepared optimizer passes the closure on."""
    assert_resumes(tmp_path, 8, loss_rule())


@each_rule
def test_accumulated_gradients_resume_bitwise(rule_name, tmp_path):
    assert_resumes(tmp_path, 4, small_rule(rule_name), "no", 2)


def test_an_autocast_run_resumes_bitwise(tmp_path):
    assert_resumes(tmp_path, 8, small_rule(), "bf16")


def test_the_prepared_run_is_the_plain_run():
    prepared = Run(small_rule())
    prepared.train(1)
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), lr=0.1, rule=small_rule())
    schedule = lr_scheduler.CosineAnnealingLR(optimizer, 8)
    for inputs, targets in DataLoader(TensorDataset(*make_batch()), batch_size=2):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        schedule.step()
    assert same(prepared.end(), snapshot(model, optimizer))


def test_a_rule_that_reads_the_loss_says_so_without_a_closure():
    run = Run(loss_rule())
    inputs, _ = make_batch()
    run.accelerator.backward(run.model(inputs).sum())
    with pytest.raises(ValueError, match=r"needs the loss.*step\(lambda: loss\)"):
        run.optimizer.step()


def test_train_and_eval_of_the_prepared_optimizer_do_nothing():
    run = Run(small_rule())
    before = run.optimizer.state_dict()
    run.optimizer.train()
    run.optimizer.eval()
    assert same(run.optimizer.state_dict(), before)
    run.train(1)
    assert steps_taken(run.optimizer) == 4


def test_gradients_are_clipped_by_the_accelerator():
    run = Run(small_rule())
    inputs, _ = make_batch()
    run.accelerator.backward(100 * run.model(inputs).square().sum())
    run.accelerator.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()
    norm = torch.stack([p.grad.norm() for p in run.model.parameters()]).norm()
    assert norm.item() == pytest.approx(1.0, rel=1e-4)
    assert steps_taken(run.optimizer) == 1


def test_a_monitor_takes_the_prepared_optimizer(tmp_path):
    run = Run(small_rule())
    with GateMonitor(tmp_path, every=1) as monitor:
        handle = monitor.attach(run.optimizer)
        seen = []
        run.optimizer.optimizer.register_update_hook(lambda *_: seen.append(1))
        run.train(1)
        handle.remove()
    assert len(seen) == 4
    written = EventAccumulator(str(tmp_path / "tensors" / "0.0")).Reload().Scalars("update_rms")
    assert [event.step for event in written] == [0, 1, 2, 3]


def test_a_monitor_refuses_the_prepared_optimizer_of_torch(tmp_path):
    prepared = Accelerator(cpu=True).prepare(torch.optim.SGD([nn.Parameter(torch.ones(1))]))
    with GateMonitor(tmp_path) as monitor, pytest.raises(TypeError, match="AcceleratedOptimizer"):
        monitor.attach(prepared)


def test_higher_takes_the_prepared_optimizer_ours_and_torchs():
    """One step of gradient 2 from 1: -0.1 * 2 * 1 with the rule and with SGD alike."""
    for make in (
        lambda weights: LearnedOptimizer(weights, lr=0.1, rule="sgd"),
        lambda weights: torch.optim.SGD(weights, lr=0.1),
    ):
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        model, prepared = Accelerator(cpu=True).prepare(model, make(model.parameters()))
        with higher.innerloop_ctx(model, prepared, copy_initial_weights=False) as (fast, inner):
            inner.second_order = True
            inner.step(fast(torch.ones(1, 1)).square().sum())
            (moved,) = fast.parameters()
            assert moved.item() == pytest.approx(0.8)
            (gradient,) = torch.autograd.grad(moved.sum(), model.parameters())
        assert gradient.item() == pytest.approx(0.8)  # d(w - 0.1 * 2 w) / dw


def test_state_is_made_ahead_inside_the_prepared_optimizer():
    run = Run(small_rule())
    run.optimizer.optimizer.init_state()
    assert len(run.optimizer.state) == 4 and steps_taken(run.optimizer) == 0
    saved = get_optimizer_state_dict(run.model, run.optimizer)
    assert saved["state"].keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
