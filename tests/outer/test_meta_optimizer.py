"""Outer steps: schedules, clipping, outliers, and all of it resumable."""

import math

import pytest
import torch

from learned_opt import create_rule
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.outer.meta_optimizer import META_OPTIMIZERS, SCHEDULES, MetaOptimizer
from meta_train.outer.settings import TrainSettings


def make_meta_optimizer(**settings):
    torch.manual_seed(0)
    meta_parameters = MetaParameters(create_rule("adam-lstm", hidden_size=3))
    return MetaOptimizer(meta_parameters, TrainSettings(outer_steps=100, **settings))


def gradients_of(meta_optimizer, seed, scale=1.0):
    source = torch.Generator().manual_seed(seed)
    shapes = [weight.shape for weight in meta_optimizer.meta_parameters.parameters()]
    drawn = [torch.randn(shape, generator=source) for shape in shapes]
    return [scale * value / torch.nn.utils.get_total_norm(drawn) for value in drawn]


def weights(meta_optimizer):
    return torch.cat(
        [weight.detach().flatten() for weight in meta_optimizer.meta_parameters.parameters()]
    )


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_schedules_warm_up_and_end_where_they_say(schedule):
    meta_optimizer = make_meta_optimizer(schedule=schedule, lr=0.1, final_lr_fraction=0.05)
    assert meta_optimizer.learning_rate(10) < meta_optimizer.learning_rate(20)
    end = 0.1 if schedule == "constant" else 0.005
    assert meta_optimizer.learning_rate(100) == pytest.approx(end)
    assert meta_optimizer.learning_rate(1000) == pytest.approx(end)
    rates = [meta_optimizer.learning_rate(step) for step in range(20, 100)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("name", list(META_OPTIMIZERS))
def test_every_meta_optimizer_moves_and_resumes_bitwise(name):
    unbroken, first = (make_meta_optimizer(meta_optimizer=name) for _ in range(2))
    begin = weights(unbroken)
    for step in range(1, 7):
        unbroken.step(gradients_of(unbroken, step), step)
    for step in range(1, 4):
        first.step(gradients_of(first, step), step)
    resumed = make_meta_optimizer(meta_optimizer=name)
    resumed.meta_parameters.load_state_dict(first.meta_parameters.state_dict())
    resumed.load_state_dict(*first.state_dict())
    for step in range(4, 7):
        resumed.step(gradients_of(resumed, step), step)
    assert not torch.equal(weights(resumed), begin)
    assert torch.equal(weights(resumed), weights(unbroken))
    averages = [d.average.state_dict().values() for d in (resumed, unbroken)]
    assert all(torch.equal(a, b) for a, b in zip(*averages, strict=True))
    assert resumed.recent_norms == unbroken.recent_norms


def test_gradients_are_clipped_and_their_norm_before_it_is_told():
    meta_optimizer = make_meta_optimizer(meta_optimizer="sgd", grad_clip_norm=0.5, lr=1.0)
    begin = weights(meta_optimizer)
    assert meta_optimizer.step(gradients_of(meta_optimizer, 0, scale=4.0), 20) == pytest.approx(4.0)
    moved = float((weights(meta_optimizer) - begin).norm())
    assert moved == pytest.approx(0.5 * meta_optimizer.learning_rate(20), rel=1e-4)


@pytest.mark.parametrize("scale", [100.0, math.nan, math.inf])
def test_outliers_and_what_is_not_finite_are_skipped_and_counted(scale):
    meta_optimizer = make_meta_optimizer()
    for step in range(1, 6):
        meta_optimizer.step(gradients_of(meta_optimizer, step), step)
    before = weights(meta_optimizer)
    meta_optimizer.step(gradients_of(meta_optimizer, 6, scale), 6)
    assert torch.equal(weights(meta_optimizer), before)
    assert (meta_optimizer.skipped, meta_optimizer.skipped_in_a_row) == (1, 1)
    meta_optimizer.step(gradients_of(meta_optimizer, 7), 7)
    assert (meta_optimizer.skipped, meta_optimizer.skipped_in_a_row) == (1, 0)
    assert all(torch.isfinite(value).all() for value in meta_optimizer.average.parameters())


def test_adam_forgets_squared_meta_gradients_within_100_steps():
    for name in ("adam", "adamw"):
        (group,) = make_meta_optimizer(meta_optimizer=name).optimizer.param_groups
        assert group["betas"] == (0.9, 0.99)


def test_the_learning_rate_warms_up_over_20_steps():
    meta_optimizer = make_meta_optimizer(schedule="constant", lr=0.1)
    rates = [meta_optimizer.learning_rate(step) for step in (1, 10, 19, 20, 21)]
    assert rates == pytest.approx([0.005, 0.05, 0.095, 0.1, 0.1])


@pytest.mark.parametrize(
    ("schedule", "middle"),
    [("cosine", 0.055), ("linear", 0.055), ("exponential", 0.0316228), ("constant", 0.1)],
)
def test_schedules_half_way(schedule, middle):
    meta_optimizer = make_meta_optimizer(schedule=schedule, lr=0.1, final_lr_fraction=0.1)
    assert meta_optimizer.learning_rate(50) == pytest.approx(middle)


@pytest.mark.parametrize(
    ("ema_decay", "decays"),
    [(0.98, [1 / 11, 2 / 12, 3 / 13]), (0.1, [1 / 11, 0.1, 0.1])],
)
def test_the_average_ramps_up_its_decay(ema_decay, decays):
    meta_optimizer = make_meta_optimizer(ema_decay=ema_decay, meta_optimizer="sgd", lr=1.0)
    expected = weights(meta_optimizer)
    for step, decay in enumerate(decays, 1):
        meta_optimizer.step(gradients_of(meta_optimizer, step), step)
        expected = decay * expected + (1 - decay) * weights(meta_optimizer)
        average = torch.nn.utils.parameters_to_vector(meta_optimizer.average.parameters())
        torch.testing.assert_close(average, expected)
    assert not average.requires_grad


def test_a_skipped_step_counts_for_the_average_too():
    meta_optimizer = make_meta_optimizer(meta_optimizer="sgd", lr=1.0)
    before = weights(meta_optimizer)
    meta_optimizer.step(gradients_of(meta_optimizer, 1), 1)
    meta_optimizer.step(gradients_of(meta_optimizer, 2), 2, useful=False)
    average = torch.nn.utils.parameters_to_vector(meta_optimizer.average.parameters())
    share = 1 / 11 * 2 / 12  # of the initial weights
    torch.testing.assert_close(average, share * before + (1 - share) * weights(meta_optimizer))


def test_outliers_are_told_from_the_median_of_the_last_41_norms():
    for small, skipped in ((20, 0), (21, 1)):
        meta_optimizer = make_meta_optimizer(meta_optimizer="sgd", lr=1e-6)
        for step, norm in enumerate([100.0] * 41 + [1.0] * small + [20.0], 1):
            meta_optimizer.step(gradients_of(meta_optimizer, step, norm), step)
        assert len(meta_optimizer.recent_norms) == 41
        assert meta_optimizer.skipped == skipped


def test_an_outlier_is_more_than_ten_times_the_median():
    meta_optimizer = make_meta_optimizer(meta_optimizer="sgd", lr=1e-6)
    for step, norm in enumerate([1.0, 1.0, 1.0, 9.9, 1.0, 10.1], 1):
        meta_optimizer.step(gradients_of(meta_optimizer, step, norm), step)
        assert meta_optimizer.skipped == (norm > 10)


def test_a_step_leaves_the_given_gradients_alone():
    meta_optimizer = make_meta_optimizer(grad_clip_norm=0.5)
    gradients = gradients_of(meta_optimizer, 0, 4.0)
    before = [gradient.clone() for gradient in gradients]
    meta_optimizer.step(gradients, 1)
    assert all(map(torch.equal, gradients, before))
