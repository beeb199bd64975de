"""Each objective by hand, its facts, losses of any sign, diverged runs."""

from math import log, sqrt

import pytest
import torch

from meta_train.estimators.objectives import (
    OBJECTIVES,
    mean_over_alive,
    meta_loss,
    objective_by_run,
)

FIRST, SECOND = [4.0, 1.0, 0.25], [9.0, 2.0, 3.0]
ANY_SIGN = ("last", "sum")
BY_HAND = {
    "sum": lambda losses: sum(losses) / len(losses),
    "sqrt": lambda losses: 2 * sum(map(sqrt, losses)) / len(losses),
    "log": lambda losses: sum(map(log, losses)) / len(losses),
    "last": lambda losses: losses[-1],
    "log-last": lambda losses: log(losses[-1]),
    "log-tail": lambda losses: log(losses[-1]) + 0.2 * sum(map(log, losses)) / len(losses),
}


def table(*runs):
    return torch.tensor(runs, dtype=torch.float64).T


def all_alive(losses):
    return torch.ones(losses.shape[1], dtype=torch.bool)


def test_every_objective_is_checked_here():
    assert BY_HAND.keys() == OBJECTIVES.keys()
    assert all(objective.name == name for name, objective in OBJECTIVES.items())
    assert all(objective.doc for objective in OBJECTIVES.values())


def test_objectives_know_what_they_read():
    def names(fact):
        return {name for name, objective in OBJECTIVES.items() if fact(objective)}

    assert names(lambda one: one.any_sign) == {"sum", "last"}
    assert names(lambda one: one.reads_last_only) == {"last", "log-last"}
    assert names(lambda one: one.needs_whole_runs) == {"last", "log-last", "log-tail"}
    losses = table(FIRST, SECOND)
    other = losses.clone()
    other[:-1] += 1
    for name, objective in OBJECTIVES.items():
        unchanged = torch.equal(
            objective_by_run(losses, objective), objective_by_run(other, objective)
        )
        assert unchanged == objective.reads_last_only, name


@pytest.mark.parametrize("name", OBJECTIVES)
def test_formulas(name):
    losses, objective = table(FIRST, SECOND), OBJECTIVES[name]
    expected = [BY_HAND[name](run) for run in (FIRST, SECOND)]
    assert objective_by_run(losses, objective).tolist() == pytest.approx(expected, rel=1e-12)
    value = meta_loss(losses, all_alive(losses), objective)
    assert float(value) == pytest.approx(sum(expected) / 2, rel=1e-12)
    for steps in (1, 3, 25):
        terms = objective.terms(torch.ones(steps, 2))
        assert terms.dim() == 2
        assert terms.shape[1] == 2


def test_the_tail_is_the_last_tenth_rounded_up():
    losses = torch.linspace(1, 2, 25, dtype=torch.float64).unsqueeze(1)
    expected = losses[-3:].mean().log() + 0.2 * losses.log().mean()
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


@pytest.mark.parametrize("name", ANY_SIGN)
def test_objectives_that_take_any_sign_take_negative_losses(name):
    losses = table([-1.0, -2.0], [3.0, -4.0])
    expected = (BY_HAND[name]([-1.0, -2.0]) + BY_HAND[name]([3.0, -4.0])) / 2
    assert float(meta_loss(losses, all_alive(losses), OBJECTIVES[name])) == expected


@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - set(ANY_SIGN)))
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


def test_the_mean_inner_loss_leaves_out_runs_that_diverged():
    losses = table([1.0, 3.0], [float("nan"), 1.0], [5.0, 7.0])
    assert float(mean_over_alive(losses, torch.tensor([True, False, True]))) == 4.0
    assert float(mean_over_alive(losses, torch.zeros(3, dtype=torch.bool))) == 0.0


def test_where_every_run_diverged_there_is_nothing():
    losses = table([1.0, float("nan")]).requires_grad_()
    value = meta_loss(losses, torch.tensor([False]), OBJECTIVES["log"])
    assert value.item() == 0
    assert torch.equal(torch.autograd.grad(value, losses)[0], torch.zeros_like(losses))
