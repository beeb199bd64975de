"""Reptile: one step is joint training, many steps on a quadratic have a closed form."""

import pytest
import torch
from estimator_cases import (
    F64,
    NoisyRegression,
    Quadratics,
    SometimesHopeless,
    close,
    estimate,
    make_meta_parameters,
    make_runs,
    meta_objective,
    vector,
)

from meta_train.estimators import create_estimator

INITIALIZATION = vector(1.0, -2.0, 0.5)


def test_one_step_is_joint_training():
    meta_parameters = make_meta_parameters("sgd", INITIALIZATION)
    runs = make_runs(meta_parameters, NoisyRegression(), steps=1, runs=5)
    found = estimate("reptile", meta_parameters, runs, lr=0.1)
    stream = runs.stream(0)
    initialization = INITIALIZATION.clone().requires_grad_()
    loss = torch.vmap(NoisyRegression.loss, (None, None, 0))(
        {"theta": initialization}, {}, stream.next()
    )[0]
    (joint,) = torch.autograd.grad(loss.mean(), initialization)
    close(found.gradients[0], 0.1 * joint)


def test_many_steps_on_quadratics_equal_the_closed_form():
    steps, lr = 6, 0.02
    meta_parameters = make_meta_parameters("sgd", INITIALIZATION)
    runs = make_runs(meta_parameters, Quadratics(dimensions=3), steps, runs=4)
    found = estimate("reptile", meta_parameters, runs, lr=lr)
    ends = []
    for problem in runs.problems:
        w, y = problem.full()
        minimum = torch.linalg.solve(w, y)
        contraction = torch.eye(3, dtype=F64) - 2 * lr * w.T @ w
        ends.append(
            minimum + torch.linalg.matrix_power(contraction, steps) @ (INITIALIZATION - minimum)
        )
    close(found.gradients[0], INITIALIZATION - torch.stack(ends).mean(0), 1e-10)


def test_sgd_takes_the_published_step():
    meta_parameters = make_meta_parameters("adam", INITIALIZATION)
    runs = make_runs(meta_parameters, Quadratics(dimensions=3), 4)
    found = estimate("reptile", meta_parameters, runs)
    meta_parameters.values[0].grad = found.gradients[0]
    torch.optim.SGD(meta_parameters.parameters(), lr=0.25).step()
    close(
        meta_parameters.values[0].data,
        INITIALIZATION + 0.25 * (runs.inner.parameters["theta"].mean(0) - INITIALIZATION),
    )


@pytest.mark.parametrize("factor", [1e200, 30.0], ids=["at once", "later"])
def test_runs_that_diverge_pull_nowhere(factor):
    meta_parameters, task = (
        make_meta_parameters("sgd", INITIALIZATION),
        SometimesHopeless(dimensions=3),
    )
    task.factor = factor
    runs = make_runs(meta_parameters, task, 3, runs=8)
    found = estimate("reptile", meta_parameters, runs)
    alive = runs.inner.alive
    assert 0 < found.counted == int(alive.sum()) < 8
    assert found.diverged == 8 - found.counted
    close(found.gradients[0], (INITIALIZATION - runs.inner.parameters["theta"][alive]).mean(0))


def test_the_objective_is_reported_as_elsewhere():
    meta_parameters = make_meta_parameters("sgd", INITIALIZATION)
    seen = [
        estimate(
            name,
            meta_parameters,
            make_runs(meta_parameters, Quadratics(dimensions=3)),
            how=meta_objective("log"),
        )
        for name in ("reptile", "full")
    ]
    close(seen[0].meta_loss, seen[1].meta_loss.detach())
    close(seen[0].mean_loss, seen[1].mean_loss.detach())


@pytest.mark.parametrize("name", ["reptile", "implicit"])
def test_meta_parameters_without_an_initialisation_or_with_a_rule_to_train_are_refused(name):
    estimator = create_estimator(name)
    estimator.check(make_meta_parameters("sgd", INITIALIZATION))
    with pytest.raises(ValueError, match="needs a learned initialisation"):
        estimator.check(make_meta_parameters("lstm"))
    both = make_meta_parameters("lstm", INITIALIZATION)
    with pytest.raises(ValueError, match="does not train the weights of rule CoordinateLSTM"):
        estimator.check(both)
    frozen = create_estimator(name, freeze_rule=True)
    frozen.check(both)
    found = estimate(frozen, both, make_runs(both, Quadratics(dimensions=3)))
    assert found.gradients[-1].abs().min() > 0
    for gradient, weight in zip(found.gradients[:-1], both.rule.parameters(), strict=True):
        assert torch.equal(gradient, torch.zeros_like(weight))
