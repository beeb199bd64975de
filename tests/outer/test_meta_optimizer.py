"""Outer steps: schedules, clipping, outliers, and all of it resumable."""

import math

import pytest
import torch

from learned_opt import create_rule
from meta_train.inner.meta_parameters import Learner
from meta_train.outer.meta_optimizer import META_OPTIMIZERS, SCHEDULES, WARMUP, Descent
from meta_train.outer.settings import TrainSettings


def make_descent(**settings):
    torch.manual_seed(0)
    learner = Learner(create_rule("adam-lstm", hidden_size=3))
    return Descent(learner, TrainSettings(outer_steps=100, **settings))


def gradients_of(descent, seed, scale=1.0):
    source = torch.Generator().manual_seed(seed)
    shapes = [weight.shape for weight in descent.learner.parameters()]
    drawn = [torch.randn(shape, generator=source) for shape in shapes]
    return [scale * value / torch.nn.utils.get_total_norm(drawn) for value in drawn]


def weights(descent):
    return torch.cat([weight.detach().flatten() for weight in descent.learner.parameters()])


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_schedules_warm_up_and_end_where_they_say(schedule):
    descent = make_descent(schedule=schedule, lr=0.1, lr_end=0.05)
    assert descent.rate(WARMUP // 2) < descent.rate(WARMUP)
    end = 0.1 if schedule == "constant" else 0.005
    assert descent.rate(100) == pytest.approx(end)
    assert descent.rate(1000) == pytest.approx(end)
    rates = [descent.rate(step) for step in range(WARMUP, 100)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("name", list(META_OPTIMIZERS))
def test_every_meta_optimizer_moves_and_resumes_bitwise(name):
    unbroken, first = (make_descent(meta_optimizer=name) for _ in range(2))
    begin = weights(unbroken)
    for step in range(1, 7):
        unbroken.step(gradients_of(unbroken, step), step)
    for step in range(1, 4):
        first.step(gradients_of(first, step), step)
    resumed = make_descent(meta_optimizer=name)
    resumed.learner.load_state_dict(first.learner.state_dict())
    resumed.load_state_dict(*first.state_dict())
    for step in range(4, 7):
        resumed.step(gradients_of(resumed, step), step)
    assert not torch.equal(weights(resumed), begin)
    assert torch.equal(weights(resumed), weights(unbroken))
    averages = [d.average.state_dict().values() for d in (resumed, unbroken)]
    assert all(torch.equal(a, b) for a, b in zip(*averages, strict=True))
    assert resumed.recent_norms == unbroken.recent_norms


def test_gradients_are_clipped_and_their_norm_before_it_is_told():
    descent = make_descent(meta_optimizer="sgd", clip=0.5, lr=1.0)
    begin = weights(descent)
    assert descent.step(gradients_of(descent, 0, scale=4.0), WARMUP) == pytest.approx(4.0)
    moved = float((weights(descent) - begin).norm())
    assert moved == pytest.approx(0.5 * descent.rate(WARMUP), rel=1e-4)


@pytest.mark.parametrize("scale", [100.0, math.nan, math.inf])
def test_outliers_and_what_is_not_finite_are_skipped_and_counted(scale):
    descent = make_descent()
    for step in range(1, 6):
        descent.step(gradients_of(descent, step), step)
    before = weights(descent)
    descent.step(gradients_of(descent, 6, scale), 6)
    assert torch.equal(weights(descent), before)
    assert (descent.skipped, descent.skipped_in_a_row) == (1, 1)
    descent.step(gradients_of(descent, 7), 7)
    assert (descent.skipped, descent.skipped_in_a_row) == (1, 0)
    assert all(torch.isfinite(value).all() for value in descent.average.parameters())
