"""Each objective by hand, losses of any sign, runs that have diverged."""

from math import log, sqrt

import pytest
import torch

from meta_train.estimators.objectives import (
    ANY_SIGN,
    BODY_WEIGHT,
    OBJECTIVES,
    meta_loss,
    objective_by_run,
)

FIRST, SECOND = [4.0, 1.0, 0.25], [9.0, 2.0, 3.0]
BY_HAND = {
    "sum": lambda losses: sum(losses) / len(losses),
    "sqrt": lambda losses: 2 * sum(map(sqrt, losses)) / len(losses),
    "log": lambda losses: sum(map(log, losses)) / len(losses),
    "last": lambda losses: losses[-1],
    "log-last": lambda losses: log(losses[-1]),
    "log-tail": lambda losses: log(losses[-1]) + BODY_WEIGHT * sum(map(log, losses)) / len(losses),
}


def table(*runs):
    return torch.tensor(runs, dtype=torch.float64).T


def all_alive(losses):
    return torch.ones(losses.shape[1], dtype=torch.bool)


def test_every_objective_is_checked_here():
    assert BY_HAND.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_formulas(name):
    losses, objective = table(FIRST, SECOND), OBJECTIVES[name]
    expected = [BY_HAND[name](run) for run in (FIRST, SECOND)]
    assert objective_by_run(losses, objective).tolist() == pytest.approx(expected, rel=1e-12)
    value = meta_loss(losses, all_alive(losses), objective)
    assert float(value) == pytest.approx(sum(expected) / 2, rel=1e-12)
    for steps in (1, 3, 25):
        terms = objective(torch.ones(steps, 2))
        assert terms.dim() == 2
        assert terms.shape[1] == 2


def test_the_tail_is_the_last_tenth_rounded_up():
    losses = torch.linspace(1, 2, 25, dtype=torch.float64).unsqueeze(1)
    expected = losses[-3:].mean().log() + BODY_WEIGHT * losses.log().mean()
    assert float(objective_by_run(losses, OBJECTIVES["log-tail"])) == pytest.approx(float(expected))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_smaller_losses_are_better_and_gradients_are_those_of_the_formula(name):
    losses = table(FIRST, SECOND).requires_grad_()
    torch.autograd.gradcheck(
        lambda losses: meta_loss(losses, all_alive(losses), OBJECTIVES[name]), losses
    )
    (gradient,) = torch.autograd.grad(
        meta_loss(losses, all_alive(losses), OBJECTIVES[name]), losses
    )
    assert (gradient[-1] > 0).all()
    assert (gradient >= 0).all()


@pytest.mark.parametrize("name", sorted(ANY_SIGN))
def test_objectives_that_take_any_sign_take_negative_losses(name):
    losses = table([-1.0, -2.0], [3.0, -4.0])
    expected = (BY_HAND[name]([-1.0, -2.0]) + BY_HAND[name]([3.0, -4.0])) / 2
    assert float(meta_loss(losses, all_alive(losses), OBJECTIVES[name])) == expected


@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - ANY_SIGN))
def test_the_others_stay_finite_where_losses_are_zero_or_negative(name):
    losses = table([0.0, -1.0], [1.0, 1.0]).requires_grad_()
    value = meta_loss(losses, all_alive(losses), OBJECTIVES[name])
    assert value.isfinite()
    assert torch.autograd.grad(value, losses)[0].isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e300])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_runs_that_diverged_do_not_count_and_get_no_gradient(name, bad):
    losses = table(FIRST, [1.0, bad, bad], SECOND).requires_grad_()
    alive = torch.tensor([True, False, True])
    value = meta_loss(losses, alive, OBJECTIVES[name])
    expected = (BY_HAND[name](FIRST) + BY_HAND[name](SECOND)) / 2
    assert value.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(value, losses)
    assert torch.equal(gradient[:, 1], torch.zeros(3, dtype=torch.float64))
    assert gradient.isfinite().all()


def test_where_every_run_diverged_there_is_nothing():
    losses = table([1.0, float("nan")]).requires_grad_()
    value = meta_loss(losses, torch.tensor([False]), OBJECTIVES["log"])
    assert value.item() == 0
    assert torch.equal(torch.autograd.grad(value, losses)[0], torch.zeros_like(losses))
