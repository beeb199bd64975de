"""torch.autocast and torch.amp.GradScaler, on the CPU: skipped steps, stops and resumptions."""

import pytest
import torch
from conftest import clones, make_model, model_loss, same
from small_rules import each_rule, loss_rule, small_rule, snapshot, steps_taken, through_a_file
from torch import nn

from learned_opt import LearnedOptimizer

TOO_LARGE = 2.0**20
"""A loss scale at which the gradients of the first steps overflow in float16."""


class Run:
    def __init__(self, rule, dtype=torch.float16, scaling=True):
        self.dtype = dtype
        self.model = make_model()
        self.optimizer = LearnedOptimizer(self.model.parameters(), lr=0.1, rule=rule)
        self.scaler = torch.amp.GradScaler(
            "cpu", init_scale=TOO_LARGE, growth_interval=2, enabled=scaling
        )
        self.scales = []

    def train(self, steps):
        for _ in range(steps):
            self.optimizer.zero_grad()
            with torch.autocast("cpu", self.dtype):
                loss = model_loss(self.model)
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            # Not as a keyword: GradScaler refuses that, and passes positional arguments on.
            self.scaler.step(self.optimizer, lambda loss=loss: loss.detach())
            self.scaler.update()
            self.scales.append(self.scaler.get_scale())

    def parts(self):
        return {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}

    def save(self):
        return through_a_file({key: part.state_dict() for key, part in self.parts().items()})

    def load(self, saved):
        for key, part in self.parts().items():
            part.load_state_dict(saved[key])


def assert_resumes(rule, dtype, scaling, stop=8, end=12):
    runs = unbroken, stopped, resumed = [Run(rule, dtype, scaling) for _ in range(3)]
    unbroken.train(end)
    stopped.train(stop)
    resumed.load(stopped.save())
    resumed.train(end - stop)
    assert stopped.scales + resumed.scales == unbroken.scales
    assert same(*(snapshot(run.model, run.optimizer) for run in (resumed, unbroken)))
    assert steps_taken(stopped.optimizer) < steps_taken(resumed.optimizer)
    return runs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@each_rule
def test_a_scaled_run_resumes_bitwise(rule_name, dtype):
    assert_resumes(small_rule(rule_name), dtype, scaling=True)


@each_rule
def test_an_autocast_run_without_a_scaler_resumes_bitwise(rule_name):
    assert_resumes(small_rule(rule_name), torch.bfloat16, scaling=False, stop=3, end=6)


def test_a_rule_that_reads_the_loss_resumes_with_a_scaler():
    assert_resumes(loss_rule(), torch.float16, scaling=True)


def test_skipped_steps_move_and_count_nothing():
    run = Run(small_rule())
    before = clones(run.model.parameters())
    run.train(1)
    assert run.scales == [TOO_LARGE / 2]
    assert same(clones(run.model.parameters()), before)
    assert not run.optimizer.state
    run.train(9)
    skipped = sum(b < a for a, b in zip([TOO_LARGE, *run.scales], run.scales, strict=False))
    assert steps_taken(run.optimizer) == 10 - skipped > 0


def test_scaling_itself_changes_no_bit():
    """Scales are powers of two: in float32 the unscaled gradients are those without a scaler."""
    runs = [Run(small_rule(), torch.bfloat16, scaling) for scaling in (True, False)]
    for run in runs:
        run.train(3)
    assert same(*(snapshot(run.model, run.optimizer) for run in runs))


def test_the_scaler_refuses_a_closure_by_keyword():
    run = Run(loss_rule())
    with pytest.raises(RuntimeError, match="Closure use is not currently supported"):
        run.scaler.step(run.optimizer, closure=lambda: 1.0)
