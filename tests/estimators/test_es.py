"""Evolution strategies: the formula by hand, the mean that theory says, pairs that diverge."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from estimator_cases import (
    ALONE,
    F64,
    Fixed,
    NoisyRegression,
    SometimesHopeless,
    begin,
    close,
    estimate,
    make_meta_parameters,
    make_runs,
    meta_objective,
    vector,
)
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from meta_train.estimators import create_estimator
from meta_train.estimators.antithetic_es import roll_out_pairs
from meta_train.inner.unroll import Rollout
from meta_train.runtime.seeding import generator

INITIALIZATION = vector(1.0, -2.0, 0.5)
SIGMA = 0.1


def pairs_of(meta_parameters, task, **settings):
    return make_runs(meta_parameters, task, copies=2, **settings)


def values_at(meta_parameters, task, noise, **how):
    """F(theta + noise) and F(theta - noise) of each run, each by itself through plain unrolls."""
    where = parameters_to_vector(meta_parameters.parameters()).detach()
    values = []
    for sign in (1, -1):
        row = []
        for index, shift in enumerate(noise):
            vector_to_parameters(where + sign * shift, meta_parameters.parameters())
            runs = make_runs(meta_parameters, task, indices=[index])
            row.append(estimate("full", meta_parameters, runs, **how).meta_loss.detach())
        values.append(torch.stack(row))
    vector_to_parameters(where, meta_parameters.parameters())
    return values


@pytest.mark.parametrize("data", ["training", "fresh"])
@pytest.mark.parametrize("objective", ["sqrt", "log-tail"])
@pytest.mark.parametrize("rule", ["sgd", "lstm", "gated-lstm", "step-size-lstm"])
def test_the_estimate_is_the_formula_by_hand(rule, objective, data):
    # On batches that are drawn: the two runs of a pair see the same ones.
    meta_parameters = make_meta_parameters(rule, INITIALIZATION)
    task, how = NoisyRegression(), meta_objective(objective, data)
    found = estimate(
        create_estimator("es", sigma=SIGMA),
        meta_parameters,
        pairs_of(meta_parameters, task),
        how=how,
    )
    size = len(parameters_to_vector(meta_parameters.parameters()))
    noise = torch.stack(
        [torch.randn(size, generator=generator(0, "noise", 0, k)) for k in range(3)]
    )
    noise = SIGMA * noise.double()
    positive, negative = values_at(meta_parameters, task, noise, how=how)
    expected = ((positive - negative) / (2 * SIGMA**2)) @ noise / 3
    close(torch.cat([g.reshape(-1) for g in found.gradients]), expected, 1e-10)
    close(found.meta_loss, (positive + negative).mean() / 2)
    assert (found.counted, found.diverged, found.inner_steps) == (3, 0, 24)


def test_on_a_quadratic_the_mean_is_the_gradient():
    # The loss after a step of SGD is quadratic in the initialisation: smoothing does not change
    # its gradient.
    w, y = torch.tensor([[2.0, 0.5], [0.0, 1.0]], dtype=F64), vector(1, -1)
    task = Fixed(vector(0, 0), lambda theta, _: (w @ theta - y).square().sum())
    meta_parameters = make_meta_parameters("sgd", vector(1, -2))
    exact = estimate(
        "full", meta_parameters, make_runs(meta_parameters, task, 2), how=meta_objective("last")
    )
    estimator = create_estimator("es", sigma=0.5)
    drawn = torch.stack(
        [
            estimate(
                estimator,
                meta_parameters,
                pairs_of(meta_parameters, task, steps=2, runs=250),
                how=meta_objective("last"),
                outer_step=k,
            ).gradients[0]
            for k in range(16)
        ]
    )
    error = drawn.std(0) / 4
    first_order = estimate(
        "first-order",
        meta_parameters,
        make_runs(meta_parameters, task, 2),
        how=meta_objective("last"),
    )
    assert ((drawn.mean(0) - exact.gradients[0]) / error).abs().max() < 4.5
    assert ((drawn.mean(0) - first_order.gradients[0]) / error).abs().max() > 8


def test_the_initialisation_of_runs_that_go_on_is_not_perturbed():
    meta_parameters = make_meta_parameters("lstm", INITIALIZATION)
    runs = pairs_of(meta_parameters, NoisyRegression(), restart=1.0)
    estimate("es", meta_parameters, runs)
    assert runs.clocks.offsets == [0, 0, 0]
    ended = runs.inner.parameters["theta"].clone()
    found = estimate("es", meta_parameters, runs, outer_step=1)
    assert runs.clocks.offsets == [4, 4, 4]
    assert torch.equal(found.gradients[-1], torch.zeros(3, dtype=F64))
    assert found.gradients[0].abs().max() > 0
    assert not torch.equal(runs.inner.parameters["theta"], ended)


def drop(theta):
    return torch.nn.functional.dropout(theta, 0.5)


def drop_with_bernoulli(theta):
    return theta * torch.bernoulli(torch.sigmoid(0 * theta)) * 2


def drop_by_looking(theta):
    return drop(theta) if theta.sum() < 1e9 else theta


def scale_by_python(theta):
    theta.sum().item()  # one by one
    return theta * (1 + random.random())


def scale_by_numpy(theta):
    theta.sum().item()
    return theta * (1 + np.random.random())


@pytest.mark.parametrize("estimator", ["es", "pes"])
@pytest.mark.parametrize(
    "noisy", [drop, drop_with_bernoulli, drop_by_looking, scale_by_python, scale_by_numpy]
)
def test_a_pair_shares_the_random_numbers_of_its_loss(noisy, estimator):
    torch.manual_seed(0)
    begin_at = torch.randn(20, dtype=F64)
    task = Fixed(begin_at, lambda theta, batch: noisy(theta).sum())
    meta_parameters = make_meta_parameters("sgd", begin_at)
    settings = {"copies": 2, "runs": 4, "truncation_length": 4 if estimator == "pes" else None}

    def found(sigma):
        runs = make_runs(meta_parameters, task, **settings)
        random.seed(0)
        np.random.seed(0)
        return estimate(create_estimator(estimator, sigma=sigma), meta_parameters, runs)

    # The loss is linear, so the estimate does not depend on sigma. Without common numbers it grows
    # as 1 / sigma: 100-fold here.
    wide, narrow = found(1e-2).gradients[0], found(1e-4).gradients[0]
    torch.testing.assert_close(wide, narrow, rtol=1e-7, atol=1e-7)
    assert wide.abs().max() > 0.1
    # Nothing is perturbed: both runs of a pair have the same losses, other pairs other ones.
    window = begin(make_runs(meta_parameters, task, **settings))
    losses = roll_out_pairs(window, torch.zeros(4, 20, dtype=F64)).losses
    first, second = losses.chunk(2, dim=1)
    assert torch.equal(first, second)
    assert len(first[-1].unique()) == 4


def made_rollout(losses, alive, first=1.0):
    """A rollout of a pair of pairs with given losses `[steps, 4]`."""
    meta_parameters = make_meta_parameters("sgd", INITIALIZATION)
    runs = pairs_of(meta_parameters, NoisyRegression(), runs=2)
    inner = dataclasses.replace(
        begin(runs).inner,
        alive=torch.tensor(alive),
        first_loss=torch.full((4,), first, dtype=F64),
    )
    losses = torch.tensor(losses, dtype=F64)
    return meta_parameters, Rollout(losses, torch.zeros_like(losses), inner)


NAN = float("nan")
LOSSES = [[1.0, 2.0, 3.0, 4.0], [3.0, 90.0, 3.0, NAN]]
"""Pairs are (0, 2) and (1, 3); the last run is lost."""


def combined(penalty, clip=None, **settings):
    meta_parameters, rollout = made_rollout(LOSSES, [True, True, True, False])
    estimator = create_estimator("es", sigma=0.5, penalty=penalty, clip=clip, **settings)
    value = estimator.value_by_run(rollout, meta_objective())
    noise = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=F64)
    return value, estimator.average_pairs(meta_parameters, rollout, value, noise, ALONE)


def test_a_pair_of_which_one_diverged_is_left_out():
    _, found = combined(None)
    # (2 - 3) / (2 sigma^2) along the first direction.
    close(found.gradients[0], vector(-2, 0, 0))
    assert found.counted == 1
    assert float(found.meta_loss) == float(found.mean_loss) == 2.5


def test_a_penalty_counts_instead():
    value, found = combined(10.0)
    close(value, vector(2, 6, 3, 10))  # 90 counts as ten times the first loss, and so does the end
    close(found.gradients[0], vector(-2, 2 * (6 - 10) / 0.5, 0) / 2)
    assert found.counted == 2
    assert all(g.isfinite().all() for g in found.gradients)


def test_a_penalty_is_one_where_losses_are_negative():
    _, rollout = made_rollout([[-2.0, -3.0, -2.0, -2.0]], [True, True, True, False], first=-2.0)
    estimator = create_estimator("es", penalty=3.0)
    close(estimator.value_by_run(rollout, meta_objective()), vector(-2, -3, -2, 6))


@pytest.mark.parametrize(("first", "most"), [(2.0, 6.0), (NAN, 3.0)])
def test_with_a_penalty_no_loss_counts_for_more_than_it(first, most):
    _, rollout = made_rollout([[1.0, 2.9, 6.1, 90.0]], [True] * 4, first=first)
    estimator = create_estimator("es", penalty=3.0)
    close(estimator.value_by_run(rollout, meta_objective()), vector(1, 2.9, most, most))


def test_clip_puts_pairs_on_one_scale():
    _, found = combined(10.0, clip=1.2)
    # Half differences -1/2 and -2 over their root mean square, in units of sigma.
    scale = ((0.25 + 4) / 2) ** 0.5
    first, second = -0.5 / scale, -min(2 / scale, 1.2)
    assert second == -1.2
    close(found.gradients[0], vector(first, 2 * second, 0) / 0.5 / 2)


def test_a_soft_sign_bounds_what_a_pair_counts():
    _, found = combined(10.0, soft_sign=0.5)
    # Differences 2 - 3 and 6 - 10 over their size plus a half, in units of sigma.
    close(found.gradients[0], vector(-1 / 1.5, 2 * -4 / 4.5, 0) / 0.5 / 2)


def test_a_soft_sign_is_the_plain_estimate_where_differences_are_small():
    _, plain = combined(10.0)
    _, found = combined(10.0, soft_sign=1e6)
    # d / (|d| + s) is d / s, and it counts in units of sigma: 2 sigma / s times the plain one.
    torch.testing.assert_close(found.gradients[0], plain.gradients[0] * 1e-6, rtol=1e-5, atol=0)


def test_a_floor_is_a_share_of_the_first_loss():
    _, rollout = made_rollout([[1.0, 2.0, 3.0, 4.0]], [True] * 4, first=-50.0)
    estimator = create_estimator("es", floor=0.01)
    close(estimator.value_by_run(rollout, meta_objective()), vector(1.5, 2.5, 3.5, 4.5))


def test_a_floor_comes_on_top_of_a_penalty():
    value, _ = combined(10.0, floor=0.5)
    close(value, vector(2.5, 6.5, 3.5, 10.5))


def test_losses_to_the_base_count_more_than_gains():
    # F+ and F- of each pair, and of the base: above both, between them, below both.
    meta_parameters = make_meta_parameters("sgd", INITIALIZATION)
    runs = make_runs(meta_parameters, NoisyRegression(), copies=3, runs=3)
    inner = dataclasses.replace(begin(runs).inner, first_loss=torch.ones(9, dtype=F64))
    losses = torch.tensor([[2.0, 2.0, 2.0, 5.0, 5.0, 5.0, 6.0, 4.0, 1.0]], dtype=F64)
    rollout = Rollout(losses, torch.zeros_like(losses), inner)
    estimator = create_estimator("es", sigma=1.0, base_loss_weight=3.0)
    value = estimator.value_by_run(rollout, meta_objective("last"))
    noise = torch.eye(3, dtype=F64)
    found = estimator.average_pairs(meta_parameters, rollout, value, noise, ALONE)
    # 2 - 5; 2 - (5 + 2 x 1); (2 + 2 x 1) - (5 + 2 x 4); half of each over sigma^2, a third each.
    close(found.gradients[0], vector(-3 / 6, -5 / 6, -9 / 6))
    assert float(found.mean_loss) == 3.5


def test_the_base_is_the_rule_with_all_weights_zero():
    torch.manual_seed(0)
    meta_parameters = make_meta_parameters("lstm")
    runs = make_runs(meta_parameters, NoisyRegression(), copies=3)
    rows = torch.zeros(3, sum(p.numel() for p in meta_parameters.parameters()), dtype=F64)
    own, _, base = roll_out_pairs(begin(runs), rows, with_base=True).losses.chunk(3, dim=1)
    with torch.no_grad():
        for parameter in meta_parameters.parameters():
            parameter.zero_()
    runs = make_runs(meta_parameters, NoisyRegression(), copies=2)
    expected, _ = roll_out_pairs(begin(runs), rows).losses.chunk(2, dim=1)
    close(base, expected)
    assert not torch.allclose(own, base)


def test_a_learned_initialisation_has_no_base():
    estimator = create_estimator("es", base_loss_weight=3.0)
    with pytest.raises(ValueError, match="base_loss_weight=3.0 needs a rule alone"):
        estimator.check(make_meta_parameters("sgd", INITIALIZATION))


def test_a_soft_sign_and_a_clip_exclude_each_other():
    with pytest.raises(ValueError, match="clip=1.0 and soft_sign=0.1 exclude each other"):
        create_estimator("es", clip=1.0, soft_sign=0.1)


def test_hopeless_runs_do_not_reach_the_estimate():
    meta_parameters = make_meta_parameters("lstm")
    runs = pairs_of(meta_parameters, SometimesHopeless(dimensions=3), runs=8)
    found = estimate("es", meta_parameters, runs)
    assert 0 < found.counted < 8
    assert found.diverged == 2 * (8 - found.counted)
    penalised = estimate(
        create_estimator("es", penalty=3.0),
        meta_parameters,
        pairs_of(meta_parameters, SometimesHopeless(dimensions=3), runs=8),
    )
    assert penalised.counted == 8
    for gradient in (*found.gradients, *penalised.gradients):
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    "name", ["sigma", "clip", "penalty", "soft_sign", "floor", "base_loss_weight"]
)
def test_settings_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0.0"):
        create_estimator("es", **{name: 0.0})
