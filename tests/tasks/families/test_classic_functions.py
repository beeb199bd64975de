"""Classic test functions: published minima and values."""

import math

import pytest
import torch
from conftest import same

from meta_train.runtime.seeding import generator
from meta_train.tasks import TestFunction, create_task
from meta_train.tasks.families.classic_functions import FUNCTIONS, HELD_OUT_FUNCTIONS

CPU = torch.device("cpu")


def sample(task, seed=0):
    return task.sample(generator("problem", seed), CPU)


MINIMA = {
    "rosenbrock": [1.0] * 4,
    "beale": [3.0, 0.5],
    "himmelblau": [3.0, 2.0],
    "rastrigin": [0.0] * 4,
    "ackley": [0.0] * 4,
    "styblinski-tang": [-2.903534] * 4,
    "booth": [1.0, 3.0],
    "matyas": [0.0, 0.0],
    "griewank": [0.0] * 4,
    "zakharov": [0.0] * 4,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_test_function_is_zero_at_its_published_minimum_and_nowhere_less(name):
    function, minimum = FUNCTIONS[name], torch.tensor(MINIMA[name])
    assert float(function.value(minimum)) == pytest.approx(0, abs=3e-5)
    points = minimum + torch.randn(2000, len(minimum), generator=generator("points"))
    assert torch.func.vmap(function.value)(torch.cat([points, minimum + 1e-3 * points])).min() >= 0


def test_test_functions_have_their_published_values():
    x, y = 1.5, -0.5
    point, four = torch.tensor([x, y]), torch.tensor([x, y, 0.5, 2.0])
    quartic = sum(v**4 - 16 * v**2 + 5 * v for v in four.tolist()) / 2 + 39.16616570377142 * 4
    mean_square, waves = (x**2 + y**2) / 2, math.cos(2 * math.pi * x)
    expected = {
        "rosenbrock": 100 * (y - x**2) ** 2 + (1 - x) ** 2,
        "beale": sum((c - x + x * y**k) ** 2 for k, c in ((1, 1.5), (2, 2.25), (3, 2.625))),
        "rastrigin": 20 + x**2 + y**2 - 10 * 2 * math.cos(2 * math.pi * x),
        "ackley": 20 + math.e - 20 * math.exp(-0.2 * math.sqrt(mean_square)) - math.exp(waves),
        "matyas": 0.26 * (x**2 + y**2) - 0.48 * x * y,
        "griewank": 1 + (x**2 + y**2) / 4000 - math.cos(x) * math.cos(y / math.sqrt(2)),
        "zakharov": x**2 + y**2 + (0.5 * x + y) ** 2 + (0.5 * x + y) ** 4,
    }
    for name, value in expected.items():
        assert float(FUNCTIONS[name].value(point)) == pytest.approx(value, rel=1e-5), name
    assert float(FUNCTIONS["styblinski-tang"].value(four)) == pytest.approx(quartic, rel=1e-5)


def test_held_out_functions_are_only_evaluated():
    family = create_task("test-functions")
    drawn = {family.sample_task(generator(k)).task.function for k in range(60)}
    held_out = {"matyas", "griewank", "zakharov"}
    assert set(HELD_OUT_FUNCTIONS) == held_out
    assert drawn == set(FUNCTIONS) - held_out
    assert held_out < {task.function for task in family.held_out().values()}


def test_defaults():
    family = create_task("test-functions")
    sizes = {family.sample_task(generator(k)).task.dimensions for k in range(200)}
    assert sizes == set(range(2, 11))


def test_a_test_functions_minimum_moves_from_problem_to_problem():
    task = TestFunction("booth")
    shifts = [sample(task, seed).full() for seed in range(2)]
    assert not same(shifts[0], shifts[1])
    at_minimum = {"x": torch.tensor([1.0, 3.0]) + shifts[0]}
    assert float(task.loss(at_minimum, {}, shifts[0])[0]) == pytest.approx(0, abs=1e-9)
