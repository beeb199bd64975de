"""Implicit meta-gradients (iMAML): exact on quadratics, and conjugate gradient alone."""

import pytest
import torch
from estimator_cases import (
    F64,
    Fixed,
    Quadratics,
    SometimesHopeless,
    close,
    estimate,
    make_meta_parameters,
    make_runs,
    meta_objective,
    vector,
)

from meta_train.estimators import create_estimator, implicit
from meta_train.estimators.implicit import ANCHOR, Proximal, solve
from meta_train.inner.unroll import roll_out

INITIALIZATION = vector(1.0, -2.0, 0.5)
TASK = Quadratics(dimensions=3)
ROUND = Quadratics(dimensions=3, condition=3)
"""Well conditioned: a hundred steps reach the minimum."""


def pieces(problem):
    """Hessian and linear part of |W theta - y|^2."""
    w, y = problem.full()
    return 2 * w.T @ w, 2 * w.T @ y


def matrices(runs=4, n=5):
    """Positive definite ones, and right sides."""
    source = torch.Generator().manual_seed(0)
    roots = torch.randn(runs, n, n, generator=source, dtype=F64)
    eye = torch.eye(n, dtype=F64)
    return roots @ roots.mT + 0.1 * eye, torch.randn(runs, n, generator=source, dtype=F64)


def split(vectors):
    """The same vectors as tensors of several shapes."""
    return {"a": vectors[:, :4].reshape(-1, 2, 2), "b": vectors[:, 4]}


def join(tensors):
    return torch.cat([tensors["a"].flatten(1), tensors["b"].unsqueeze(1)], 1)


def apply(matrix):
    return lambda v: split((matrix @ join(v).unsqueeze(-1)).squeeze(-1))


def test_conjugate_gradient_is_exact_in_as_many_steps_as_unknowns_and_not_before():
    matrix, right = matrices()
    exact = torch.linalg.solve(matrix, right)
    close(join(solve(apply(matrix), split(right), 5)), exact, 1e-8)
    close(join(solve(apply(matrix), split(right), 30)), exact, 1e-8)  # more do no harm
    errors = [(join(solve(apply(matrix), split(right), k)) - exact).norm() for k in (1, 3, 4)]
    assert errors[0] > errors[1] > errors[2] > 1e-3


def test_runs_are_solved_apart_from_one_another():
    matrix, right = matrices()
    together = join(solve(apply(matrix), split(right), 3))
    for k in range(4):
        alone = solve(apply(matrix[k : k + 1]), split(right[k : k + 1]), 3)
        close(join(alone), together[k : k + 1])


def test_a_run_without_curvature_or_gradient_does_not_hurt_the_others():
    matrix, right = matrices()
    sound = join(solve(apply(matrix), split(right), 5))
    matrix[0] = -matrix[0]
    matrix[1] = torch.nan
    right[2] = 0
    found = join(solve(apply(matrix), split(right), 5))
    close(found[:2], right[:2])  # no step could be taken: the outer gradient itself
    close(found[2], torch.zeros(5, dtype=F64))
    close(found[3], sound[3])


@pytest.mark.parametrize(("rule", "lr"), [("sgd", 0.02), ("momentum", 0.01), ("adam", 0.05)])
def test_on_quadratics_it_is_the_inverse_of_one_plus_the_hessian_over_lambda(rule, lr):
    meta_parameters = make_meta_parameters(rule, INITIALIZATION)
    runs = make_runs(meta_parameters, TASK, 5)
    estimator = create_estimator("implicit", proximal=0.7, cg_steps=3)
    found = estimate(estimator, meta_parameters, runs, how=meta_objective("last"), lr=lr)
    expected = []
    for problem, theta in zip(runs.problems, runs.inner.parameters["theta"], strict=True):
        hessian, linear = pieces(problem)
        matrix = torch.eye(3, dtype=F64) + hessian / 0.7
        expected.append(torch.linalg.solve(matrix, hessian @ theta - linear))
    close(found.gradients[0], torch.stack(expected).mean(0), 1e-9)
    few = create_estimator("implicit", proximal=0.7, cg_steps=2)
    again = estimate(
        few, meta_parameters, make_runs(meta_parameters, TASK, 5), how=meta_objective("last"), lr=lr
    )
    assert not torch.allclose(again.gradients[0], found.gradients[0], rtol=1e-4)


def test_at_the_minimum_it_is_the_derivative_of_the_outer_loss_by_initialization():
    strength = 3.0
    initialization = INITIALIZATION.clone().requires_grad_()
    meta_parameters = make_meta_parameters("sgd", INITIALIZATION)
    runs = make_runs(meta_parameters, ROUND, 100)
    estimator = create_estimator("implicit", proximal=strength, cg_steps=3)
    found = estimate(estimator, meta_parameters, runs, how=meta_objective("log"), lr=0.1)
    losses = []
    for problem in runs.problems:
        hessian, linear = pieces(problem)
        minimum = torch.linalg.solve(
            hessian + strength * torch.eye(3, dtype=F64), linear + strength * initialization
        )
        losses.append(Quadratics.loss({"theta": minimum}, {}, problem.full())[0].log())
    value = torch.stack(losses).mean()
    close(found.meta_loss, value.detach(), 1e-9)
    close(found.gradients[0], torch.autograd.grad(value, initialization)[0], 1e-8)


def test_outer_loss_and_hessian_are_of_their_own_data():
    # Trained on (theta.x)^2 / 2, evaluated on other x. H reads the former, the gradient the latter.
    x, other, start = vector(1, 2, 3), vector(4, 5, 6), vector(0, 0, 0)
    task = Fixed(start, lambda theta, x: (theta @ x).square() / 2, x, other)
    meta_parameters = make_meta_parameters("sgd", INITIALIZATION)
    runs = make_runs(meta_parameters, task, 3)
    estimator = create_estimator("implicit", proximal=0.5, cg_steps=3, batches=2)
    how = meta_objective("last", "validation")
    found = estimate(estimator, meta_parameters, runs, how=how, lr=0.01)
    theta = runs.inner.parameters["theta"][0]
    matrix = torch.eye(3, dtype=F64) + torch.outer(x, x) / 0.5
    close(found.gradients[0], torch.linalg.solve(matrix, (theta @ other) * other), 1e-10)


def test_the_proximal_loss_pulls_and_keeps_the_problems_buffers():
    def loss(parameters, buffers, batch):
        assert set(buffers) == {"seen"}
        return (parameters["a"] * batch).sum(), {"seen": buffers["seen"] + 1}

    parameters = {"a": vector(1, 2)}
    buffers = {"seen": vector(0), f"{ANCHOR}a": vector(4, 6)}
    value, after = Proximal(loss, 2.0)(parameters, buffers, vector(1, 1))
    assert float(value) == 3 + 2.0 / 2 * (9 + 16)
    assert float(after["seen"]) == 1
    close(after[f"{ANCHOR}a"], vector(4, 6))


def test_the_anchors_do_not_stay_with_the_runs():
    meta_parameters = make_meta_parameters("sgd", INITIALIZATION)
    runs = make_runs(meta_parameters, TASK)
    estimate("implicit", meta_parameters, runs)
    assert runs.inner.buffers == {}
    assert not runs.inner.parameters["theta"].requires_grad


def test_a_run_that_goes_on_is_pulled_towards_the_present_initialisation():
    meta_parameters = make_meta_parameters("sgd", INITIALIZATION)
    runs = make_runs(meta_parameters, ROUND, 100, restart=1.0)
    estimator = create_estimator("implicit", proximal=3.0)
    for outer_step in range(2):
        estimate(estimator, meta_parameters, runs, outer_step=outer_step, lr=0.1)
        meta_parameters.values[0].data += 1.0
    assert runs.clocks.offsets == [100] * 3
    for problem, theta in zip(runs.problems, runs.inner.parameters["theta"], strict=True):
        hessian, linear = pieces(problem)
        matrix = hessian + 3 * torch.eye(3, dtype=F64)
        close(theta, torch.linalg.solve(matrix, linear + 3 * (INITIALIZATION + 1)), 1e-8)


def test_runs_that_diverge_are_left_out():
    meta_parameters = make_meta_parameters("sgd", INITIALIZATION)
    task = SometimesHopeless(dimensions=3)
    runs = make_runs(meta_parameters, task, runs=8)
    found = estimate("implicit", meta_parameters, runs)
    alive = runs.inner.alive.nonzero().flatten().tolist()
    assert 0 < found.counted == len(alive) < 8
    sound = make_runs(meta_parameters, task, runs=8, indices=alive)
    close(found.gradients, estimate("implicit", meta_parameters, sound).gradients)


def test_no_graph_of_the_steps_is_kept(monkeypatch):
    meta_parameters = make_meta_parameters("sgd", INITIALIZATION)
    seen = []

    def watched(*arguments):
        seen.append(roll_out(*arguments))
        return seen[-1]

    monkeypatch.setattr(implicit, "roll_out", watched)
    found = estimate("implicit", meta_parameters, make_runs(meta_parameters, TASK, 6))
    (rollout,) = seen
    assert not rollout.losses.requires_grad
    assert not any(tensor.requires_grad for _, tensor in rollout.inner.named_tensors())
    assert found.gradients[0].abs().min() > 0


@pytest.mark.parametrize(
    "settings", [{"proximal": 0.0}, {"cg_steps": 0}, {"batches": 0}], ids=lambda s: next(iter(s))
)
def test_settings_out_of_range_are_refused(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} must be"):
        create_estimator("implicit", **settings)
