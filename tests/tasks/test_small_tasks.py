"""Digits, quadratics, test functions, mixtures and changes of unit: what is particular to each."""

import math
from collections import Counter

import pytest
import torch
from conftest import same

from meta_train.runtime.seeding import generator
from meta_train.tasks import Mixture, create_task
from meta_train.tasks.classic_functions import FUNCTIONS, KEPT_BACK, TestFunction
from meta_train.tasks.digits import DigitsMLP
from meta_train.tasks.quadratic import Quadratic
from meta_train.tasks.reparametrized import Reparametrized

CPU = torch.device("cpu")


def sample(task, seed=0):
    return task.sample(generator("problem", seed), CPU)


def test_splits_of_the_digits_are_disjoint_and_complete():
    rows = []
    for split, count in (("train", 1000), ("validation", 400), ("test", 397)):
        images, labels = sample(DigitsMLP(split=split)).full()
        assert images.shape == (count, 64) and labels.shape == (count,)
        assert images.min() == 0 and images.max() == 1
        rows += [tuple(row) for row in images.tolist()]
    assert len(rows) == 1797
    assert len(set(rows)) == 1797


def test_digits_batches_come_from_their_split():
    problem = sample(DigitsMLP(split="test", batch_size=32))
    known = dict(
        zip(map(tuple, problem.full()[0].tolist()), problem.full()[1].tolist(), strict=True)
    )
    images, labels = problem.draw(generator("batch"))
    assert [known[tuple(row)] for row in images.tolist()] == labels.tolist()


def test_digits_networks_have_the_sizes_asked_for():
    problem = sample(DigitsMLP(hidden=(7, 5), activation="relu"))
    shapes = [tuple(value.shape) for value in problem.parameters.values()]
    assert shapes == [(7, 64), (7,), (5, 7), (5,), (10, 5), (10,)]


def test_the_bundled_weights_tasks_draw_what_they_were_trained_on():
    """Sums of draws as of the first release: a change would unmake the weights' record."""
    digits, quadratic = sample(DigitsMLP()), sample(Quadratic())
    images, _ = digits.draw(generator("batch"))
    sums = [
        *(float(value.double().abs().sum()) for value in digits.parameters.values()),
        float(images.double().sum()),
        float(quadratic.full()[0].double().abs().sum()),
        float(quadratic.parameters["theta"].double().abs().sum()),
    ]
    assert sums == pytest.approx(DRAWN, rel=1e-6)


DRAWN = [
    80.80120384693146,
    1.6768000274896622,
    22.72446833809954,
    0.9917321892571636,
    2488.375,
    76.67089280672371,
    10.016489863395691,
]


def test_the_quadratic_is_the_papers():
    """|W theta - y|^2, 10 dimensions: Andrychowicz et al. 2016, section 3.1."""
    problem = sample(Quadratic())
    w, y = problem.full()
    theta = problem.parameters["theta"]
    assert w.shape == (10, 10)
    loss, _ = problem.loss(problem.parameters, {}, (w, y))
    torch.testing.assert_close(loss, (w @ theta - y).norm() ** 2)


@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_a_quadratic_has_the_condition_asked_for(condition):
    plain, problem = sample(Quadratic()), sample(Quadratic(condition=condition))
    assert same(plain.parameters, problem.parameters)
    eigenvalues = torch.linalg.svdvals(problem.full()[0].double()).square()
    assert float(eigenvalues[0] / eigenvalues[-1]) == pytest.approx(condition, rel=1e-2)
    ratios = eigenvalues[:-1] / eigenvalues[1:]
    torch.testing.assert_close(ratios, ratios[:1].expand(9), rtol=1e-2, atol=0)
    assert float(eigenvalues.mean()) == pytest.approx(10, rel=1e-4)


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


def test_functions_kept_back_are_only_judged_by():
    family = create_task("test-functions")
    drawn = {family.sample_task(generator(k)).task.function for k in range(60)}
    kept_back = {FUNCTIONS[name] for name in KEPT_BACK}
    assert not drawn & kept_back
    assert len(drawn) == len(FUNCTIONS) - len(KEPT_BACK)
    assert kept_back < {task.function for task in family.held_out().values()}


def test_a_test_functions_minimum_moves_from_problem_to_problem():
    task = TestFunction("booth")
    shifts = [sample(task, seed).full() for seed in range(2)]
    assert not same(shifts[0], shifts[1])
    at_minimum = {"x": torch.tensor([1.0, 3.0]) + shifts[0]}
    assert float(task.loss(at_minimum, {}, shifts[0])[0]) == pytest.approx(0, abs=1e-9)


def test_a_mixture_draws_by_weight_and_judges_by_all():
    families = {"two": Quadratic(dimensions=2), "three": Quadratic(dimensions=3)}
    mixture = Mixture(families, [3, 1])
    members = [mixture.sample_task(generator(k)) for k in range(400)]
    counts = Counter(member.family for member in members)
    assert counts["two"] == pytest.approx(300, abs=40)
    assert all(member.task is families[member.family] for member in members)
    assert list(mixture.held_out()) == ["two: same family", "three: same family"]
    assert mixture.validation().weights == mixture.weights


def test_a_mixture_of_a_config_file_can_hold_a_family_twice():
    settings = {"small": {"task": "quadratic", "dimensions": 2}, "quadratic": {"dimensions": 3}}
    mixture = create_task("mixture", families=settings, weights=[1, 1])
    assert {name: task.dimensions for name, task in mixture.families.items()} == {
        "small": 2,
        "quadratic": 3,
    }
    assert settings["small"]["task"] == "quadratic"


def test_units_alone_leave_the_loss_as_it_is():
    task = Quadratic()
    plain, problem = sample(task), sample(Reparametrized(task, 1.0))
    assert not same(plain.parameters, problem.parameters)
    loss, _ = problem.loss(problem.parameters, problem.buffers, problem.full())
    torch.testing.assert_close(loss, plain.loss(plain.parameters, {}, plain.full())[0])


def test_the_losss_factor_is_drawn_last_and_for_each_problem():
    task = Quadratic()
    units, both = Reparametrized(task, 1.0), Reparametrized(task, 1.0, loss_rescale_range=2.0)
    factors = []
    for seed in range(20):
        alone, scaled = sample(units, seed), sample(both, seed)
        assert same(alone.parameters, scaled.parameters)
        values = [p.loss(p.parameters, p.buffers, p.full())[0] for p in (alone, scaled)]
        factors.append(float(values[1] / values[0]))
    assert math.exp(-2) <= min(factors) < 0.7 and 1.4 < max(factors) <= math.exp(2)


@pytest.mark.parametrize("name", ["spread", "loss_rescale_range"])
def test_a_negative_spread_is_refused(name):
    with pytest.raises(ValueError, match=f"^{name} must be at least 0, got -1"):
        Reparametrized(Quadratic(), **{"spread": 0.0, name: -1})
