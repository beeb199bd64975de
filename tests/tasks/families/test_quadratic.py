"""Quadratics: the paper's equation and the condition number."""

import pytest
import torch
from conftest import same

from meta_train.runtime.seeding import generator
from meta_train.tasks import Quadratic

CPU = torch.device("cpu")


def sample(task, seed=0):
    return task.sample(generator("problem", seed), CPU)


def test_the_loss_is_the_papers():
    """|W theta - y|^2, 10 dimensions: Andrychowicz et al. 2016, section 3.1."""
    problem = sample(Quadratic())
    w, y = problem.full()
    theta = problem.parameters["theta"]
    assert w.shape == (10, 10)
    loss, _ = problem.loss(problem.parameters, {}, (w, y))
    torch.testing.assert_close(loss, (w @ theta - y).norm() ** 2)


@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_the_condition_number_is_the_given_one(condition):
    plain, problem = sample(Quadratic()), sample(Quadratic(condition=condition))
    assert same(plain.parameters, problem.parameters)
    eigenvalues = torch.linalg.svdvals(problem.full()[0].double()).square()
    assert float(eigenvalues[0] / eigenvalues[-1]) == pytest.approx(condition, rel=1e-2)
    ratios = eigenvalues[:-1] / eigenvalues[1:]
    torch.testing.assert_close(ratios, ratios[:1].expand(9), rtol=1e-2, atol=0)
    assert float(eigenvalues.mean()) == pytest.approx(10, rel=1e-4)
