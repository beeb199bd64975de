"""Backpropagation through whole runs: closed forms, finite differences, published numbers."""

import pytest
import torch
from estimator_cases import (
    F64,
    TRAINABLE,
    Fixed,
    LearnedRate,
    Quadratics,
    close,
    estimate,
    make_meta_parameters,
    make_runs,
    meta_objective,
    vector,
)
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from meta_train.estimators import create_estimator


def half_square(theta, x):
    return (theta @ x).square() / 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [("full", (3780.0, 8505.0, 13230.0)), ("first-order", (-1260.0, -1575.0, -1890.0))],
)
def test_maml_gives_the_numbers_worked_out_by_hand(name, expected):
    meta_parameters = make_meta_parameters("sgd", vector(2, 3, 5))
    task = Fixed(vector(0, 0, 0), half_square, vector(1, 2, 3), vector(4, 5, 6))
    runs = make_runs(meta_parameters, task, steps=1, runs=2)
    found = estimate(name, meta_parameters, runs, how=meta_objective("last", "validation"), lr=0.5)
    close(runs.inner.parameters["theta"], vector(-9.5, -20, -29.5).expand(2, 3))
    close(found.meta_loss, vector(49612.5)[0])
    close(found.gradients[0], vector(*expected))
    assert (found.counted, found.diverged, found.inner_steps) == (2, 0, 2)


def by_hand(runs, initialization, steps, lr):
    """Derivatives of each step's loss by the initialisation and at the adapted point.

    Both are `[steps, runs, 3]`.
    """
    through, at_end = [], []
    for problem in runs.problems:
        w, y = problem.full()
        hessian, theta = 2 * w.T @ w, initialization
        contraction = torch.eye(3, dtype=F64) - lr * hessian
        for t in range(1, steps + 1):
            theta = theta - lr * (hessian @ theta - 2 * w.T @ y)
            gradient = hessian @ theta - 2 * w.T @ y
            at_end.append(gradient)
            through.append(torch.linalg.matrix_power(contraction, t) @ gradient)
    shape = (len(runs.problems), steps, 3)
    return (torch.stack(rows).reshape(shape).transpose(0, 1) for rows in (through, at_end))


@pytest.mark.parametrize("objective", ["last", "sum"])
def test_many_steps_on_quadratics_equal_the_closed_form(objective):
    initialization, steps, lr = vector(1.0, -2.0, 0.5), 5, 0.02
    meta_parameters = make_meta_parameters("sgd", initialization)
    for name in ("full", "first-order"):
        runs = make_runs(meta_parameters, Quadratics(dimensions=3), steps)
        found = estimate(name, meta_parameters, runs, how=meta_objective(objective), lr=lr)
        through, at_end = by_hand(runs, initialization, steps, lr)
        chosen = through if name == "full" else at_end
        chosen = chosen[-1:] if objective == "last" else chosen
        close(found.gradients[0], chosen.mean((0, 1)))


def weights_of(meta_parameters):
    return parameters_to_vector(meta_parameters.parameters()).detach()


SETTINGS = {"gated-lstm": {"use_loss": False}, "adam-lstm": {"differentiate_inputs": True}}
"""Rules must not read the loss, which is a constant to them, nor detach what they read."""


@pytest.mark.parametrize("objective", ["sqrt", "log-tail"])
@pytest.mark.parametrize("rule", TRAINABLE)
def test_gradients_are_those_of_finite_differences(rule, objective):
    # What some rules measure of the parameters at the start is a constant to them.
    initialization = None if rule in ("step-size-lstm", "general") else vector(1.0, -1.0, 0.3)
    meta_parameters = make_meta_parameters(rule, initialization, **SETTINGS.get(rule, {}))
    task = Quadratics(dimensions=3)

    def ask():
        runs = make_runs(meta_parameters, task, steps=6)
        return estimate(
            "full", meta_parameters, runs, how=meta_objective(objective), hide_loss=True
        )

    gradient = torch.cat([g.reshape(-1) for g in ask().gradients])
    where, h = weights_of(meta_parameters), 1e-5
    source = torch.Generator().manual_seed(0)
    directions = [torch.randn(len(where), generator=source, dtype=F64) for _ in range(3)]
    directions += list(
        torch.eye(len(where), dtype=F64)[-3:]
    )  # the initialisation alone, where it is learned
    for direction in directions:
        values = []
        for offset in (h, -h):
            vector_to_parameters(where + offset * direction, meta_parameters.parameters())
            values.append(ask().meta_loss)
        vector_to_parameters(where, meta_parameters.parameters())
        slope = (values[0] - values[1]) / (2 * h)
        torch.testing.assert_close(gradient @ direction, slope, rtol=1e-5, atol=1e-7)


def test_first_order_drops_what_goes_through_the_inner_gradients():
    meta_parameters = make_meta_parameters(LearnedRate(0.05), vector(1.0, -1.0, 0.3))
    found = [
        estimate(
            name,
            meta_parameters,
            make_runs(meta_parameters, Quadratics(dimensions=3), 4),
            second_order=order,
            lr=1.0,
        )
        for name, order in (("first-order", True), ("full", False), ("full", True))
    ]
    close(found[0].gradients, found[1].gradients, 0.0)
    close(found[0].meta_loss, found[2].meta_loss)
    for first, second in zip(found[0].gradients, found[2].gradients, strict=True):
        assert not torch.allclose(first, second, rtol=0.1)


def test_gradient_checkpointing_changes_nothing():
    meta_parameters = make_meta_parameters("lstm", vector(1.0, -1.0, 0.3))
    found = []
    for steps in (None, 0, 3):
        runs = make_runs(meta_parameters, Quadratics(dimensions=3), 7)
        found.append(
            estimate(create_estimator("full", checkpoint_steps=steps), meta_parameters, runs)
        )
    for other in found[1:]:
        close(other.gradients, found[0].gradients)


@pytest.mark.parametrize("name", ["full", "first-order", "truncated"])
def test_negative_checkpoint_steps_are_refused_and_so_is_the_old_name(name):
    with pytest.raises(ValueError, match="checkpoint_steps must be at least 0, got -1"):
        create_estimator(name, checkpoint_steps=-1)
    with pytest.raises(ValueError, match="'segment' is now called 'checkpoint_steps'"):
        create_estimator(name, segment=2)
