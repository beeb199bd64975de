"""Persistent evolution strategies: unbiased on windows, where plain ones are not."""

import pytest
import torch
from estimator_cases import (
    F64,
    Drift,
    Fixed,
    close,
    estimate,
    make_meta_parameters,
    make_runs,
    vector,
)

from meta_train.estimators import create_estimator
from meta_train.runtime.seeding import generator

START, SIGMA = vector(1.0, -2.0), 0.3
TASK = Fixed(START, lambda theta, _: theta.square().sum())
WINDOWS, WINDOW = 3, 2


def run_pairs(accumulate, pairs, seed=0):
    """The estimates of all windows of one run of each pair, `[windows]`."""
    meta_parameters = make_meta_parameters(Drift(0.2))
    runs = make_runs(
        meta_parameters,
        TASK,
        WINDOWS * WINDOW,
        truncation_length=WINDOW,
        runs=pairs,
        copies=2,
        seed=seed,
    )
    runs.clocks.lengths = [WINDOWS * WINDOW] * pairs
    estimator = create_estimator("pes", sigma=SIGMA)
    found = []
    for k in range(WINDOWS):
        if not accumulate:
            runs.carried.clear()
        found.append(estimate(estimator, meta_parameters, runs, outer_step=k, lr=1.0).gradients[0])
    return torch.stack(found), runs


def losses(drifts):
    """The mean loss of each window, where theta drifts by `drifts[k]` a step in window k."""
    theta, values = START, []
    for drift in drifts:
        steps = [theta + (t + 1) * drift for t in range(WINDOW)]
        values.append(sum(step.square().sum() for step in steps) / WINDOW)
        theta = steps[-1]
    return torch.stack(values)


@pytest.mark.parametrize("accumulate", [True, False])
def test_estimates_are_the_formula_by_hand(accumulate):
    found, _ = run_pairs(accumulate, 1)
    noise = SIGMA * torch.cat(
        [torch.randn(1, generator=generator(0, "noise", k, 0)).double() for k in range(WINDOWS)]
    )
    difference = losses(0.2 + noise) - losses(0.2 - noise)
    credited = noise.cumsum(0) if accumulate else noise
    close(found, difference / (2 * SIGMA**2) * credited)


def test_over_a_run_the_mean_is_the_gradient_of_the_whole_run_and_without_accumulation_it_is_not():
    # The losses are quadratic in the perturbations of all windows together: smoothing them changes
    # no gradient, so that theory gives exact means.
    w = torch.full((WINDOWS,), 0.2, dtype=F64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(losses, w)
    whole, own_windows = float(jacobian.sum()), float(jacobian.diagonal().sum())
    for accumulate, expected, wrong in ((True, whole, own_windows), (False, own_windows, whole)):
        totals = torch.stack([run_pairs(accumulate, 100, seed=seed)[0].sum() for seed in range(16)])
        error = float(totals.std()) / 4
        assert abs(float(totals.mean()) - expected) < 4.5 * error
        assert abs(float(totals.mean()) - wrong) > 10 * error


def test_the_exact_means_are_those_of_full_and_truncated_backpropagation():
    w = torch.full((WINDOWS,), 0.2, dtype=F64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(losses, w)
    meta_parameters = make_meta_parameters(Drift(0.2))
    runs = make_runs(meta_parameters, TASK, WINDOWS * WINDOW)
    (full,) = estimate("full", meta_parameters, runs, lr=1.0).gradients
    close(WINDOWS * full, jacobian.sum())
    runs = make_runs(meta_parameters, TASK, WINDOWS * WINDOW, truncation_length=WINDOW)
    runs.clocks.lengths = [WINDOWS * WINDOW] * 3
    parts = [
        estimate("truncated", meta_parameters, runs, outer_step=k, lr=1.0) for k in range(WINDOWS)
    ]
    close(sum(part.gradients[0] for part in parts), jacobian.diagonal().sum())


def test_a_new_run_begins_with_no_perturbations():
    found, runs = run_pairs(True, 2)
    assert torch.equal(runs.carried["noise"], torch.zeros(2, 1, dtype=F64))
    meta_parameters = runs.meta_parameters
    estimator = create_estimator("pes", sigma=SIGMA)
    estimate(estimator, meta_parameters, runs, outer_step=WINDOWS, lr=1.0)
    noise = torch.cat([torch.randn(1, generator=generator(0, "noise", WINDOWS, k)) for k in (0, 1)])
    close(runs.carried["noise"][:, 0], SIGMA * noise.double())
    assert found.abs().min() > 0


def test_a_learned_initialisation_is_perturbed_once_in_a_run():
    meta_parameters = make_meta_parameters("lstm", START)
    runs = make_runs(meta_parameters, TASK, 6, truncation_length=2, runs=1, copies=2)
    estimate("pes", meta_parameters, runs)
    first = runs.carried["noise"].clone()
    estimate("pes", meta_parameters, runs, outer_step=1)
    second = runs.carried["noise"]
    assert torch.equal(second[:, -2:], first[:, -2:])
    assert first[:, -2:].abs().min() > 0
    assert not torch.isclose(second[:, :-2], first[:, :-2]).any()


def test_a_run_of_a_pair_that_diverges_ends_both():
    task = Fixed(START, lambda theta, _: theta.square().sum())
    meta_parameters = make_meta_parameters(Drift(1e3))
    runs = make_runs(meta_parameters, task, 8, truncation_length=2, copies=2)
    estimator = create_estimator("pes", sigma=1.0)
    found = estimate(estimator, meta_parameters, runs, lr=1.0)
    assert (found.counted, found.diverged) == (0, 6)
    assert torch.equal(found.gradients[0], torch.zeros((), dtype=F64))
    assert runs.clocks.episodes == [1, 1, 1]
    assert torch.equal(runs.inner.parameters["theta"], START.expand(6, 2))
    assert torch.equal(runs.carried["noise"], torch.zeros(3, 1, dtype=F64))
