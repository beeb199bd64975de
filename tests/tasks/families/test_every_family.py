"""The contract of task families, tested on every registered one."""

import dataclasses
import pickle

import pytest
import torch
from conftest import same
from torch.utils import _pytree as pytree

from learned_opt import create_rule
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import stack, start
from meta_train.runtime.seeding import generator
from meta_train.tasks import TASKS, Task, create_task, list_tasks
from meta_train.tasks.base import family_name
from meta_train.tasks.reparametrized import Reparametrized

CPU = torch.device("cpu")

SMALL = {
    "test-functions": {"dimensions": (2, 4)},
    "conv": {"channels": (2, 4), "depth": (2, 2), "batch_size": (8, 8)},
    "autoencoder": {"width": (4, 8), "batch_size": (8, 8)},
    "char-rnn": {"width": (4, 6), "length": (4, 5), "batch_size": (4, 4)},
    "char-recurrent": {"width": (4, 6), "length": (4, 5), "batch_size": (4, 4)},
    "regression": {"width": (4, 8), "examples": (64, 64)},
    "word-pairs": {"vocabulary": (20, 40), "batch_size": (8, 8)},
    "char-transformer": {"width": (4, 6), "length": (4, 5), "batch_size": (4, 4)},
}
"""Settings that make these tests fast."""


@pytest.fixture(params=list_tasks())
def name(request):
    return request.param


@pytest.fixture
def family(name):
    return create_task(name, **SMALL.get(name, {}))


@pytest.fixture(params=[0, 1, 2])
def task(request, family):
    return sample_task(family, request.param)


def sample_task(family, seed=0):
    return family.sample_task(generator("member", seed)).task


def draw(task, seed=0):
    problem = task.sample(generator("problem", seed), CPU)
    return problem, [problem.draw(generator("batch", seed, k)) for k in range(2)]


def content(problem, batches):
    return problem.parameters, problem.buffers, batches, problem.full()


def run(task, rule, *, steps, runs=3, second_order=False, lr=None):
    """Losses on all data before and after training, and gradients by the initial parameters."""
    problems = [task.sample(generator("problem", k), CPU) for k in range(runs)]
    sources = [generator("batches", k) for k in range(runs)]
    loop = InnerLoop(
        rule, problems[0].loss, vectorize=True, lr=lr, second_order=second_order, total_steps=steps
    )
    begin = start(rule, problems, vectorize=True)
    leaves = {key: value.clone().requires_grad_() for key, value in begin.parameters.items()}
    inner = dataclasses.replace(begin, parameters=leaves)
    full = stack([problem.full() for problem in problems])
    first = loop.evaluate(inner, full)
    for _ in range(steps):
        batch = stack([p.draw(source) for p, source in zip(problems, sources, strict=True)])
        inner, _ = loop.step(inner, batch)
    last = loop.evaluate(inner, full)
    _, outer = loop.loss_at(inner, full)
    slopes = torch.autograd.grad(outer.sum(), list(leaves.values()), materialize_grads=True)
    return first, last, slopes, inner.alive


def test_equal_generators_draw_equal_tasks_and_problems(name, family):
    again = create_task(name, **SMALL.get(name, {}))
    for seed in range(3):
        first, second = family.sample_task(generator(seed)), again.sample_task(generator(seed))
        assert first.name == second.name
        assert same(content(*draw(first.task)), content(*draw(second.task)))


def test_other_generators_draw_other_problems(task):
    (first, batches), (second, others) = draw(task, 0), draw(task, 1)
    assert first.loss == second.loss
    assert not same(first.parameters, second.parameters)
    assert not same(batches, others)


def test_tasks_are_logged_under_the_name_in_the_registry(name, family):
    names = {family.sample_task(generator("label", k)).name for k in range(30)}
    if name == "mixture":
        assert len(names) > 3 and names < set(TASKS)
    else:
        assert names == {name} == {family_name(TASKS[name].make)}


def test_families_that_are_no_single_task_draw_several_shapes(family):
    shapes = {
        tuple(tuple(value.shape) for value in draw(sample_task(family, k))[0].parameters.values())
        for k in range(10)
    }
    assert (len(shapes) == 1) == isinstance(family, Task)


def test_sampling_leaves_the_global_random_state_alone(family):
    before = torch.get_rng_state()
    draw(sample_task(family))
    assert same(torch.get_rng_state(), before)


def test_a_loss_is_pure_and_differentiable(task):
    problem, (batch, _) = draw(task)
    parameters = {key: value.clone().requires_grad_() for key, value in problem.parameters.items()}
    (loss, buffers), (again, _) = (problem.loss(parameters, problem.buffers, batch) for _ in "ab")
    assert loss.shape == () and loss >= 0
    assert buffers.keys() == problem.buffers.keys()
    assert same(loss, again)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    assert sum(gradient.abs().max() > 0 for gradient in gradients) >= 0.7 * len(gradients)
    assert same({key: value.detach() for key, value in parameters.items()}, problem.parameters)


def test_many_problems_run_at_once_as_they_do_alone(task):
    problems, batches = zip(*(draw(task, seed) for seed in range(2)), strict=True)
    states = stack(
        [(p.parameters, p.buffers, b[0]) for p, b in zip(problems, batches, strict=True)]
    )
    losses, buffers = torch.func.vmap(problems[0].loss)(*states)
    for k in range(2):
        alone, after = problems[k].loss(problems[k].parameters, problems[k].buffers, batches[k][0])
        torch.testing.assert_close(losses[k], alone)
        for key, value in after.items():
            torch.testing.assert_close(buffers[key][k], value)


def test_batches_have_one_shape_and_data_of_all_problems_stack(task):
    (problem, batches), (other, _) = draw(task, 0), draw(task, 1)
    shape = pytree.tree_map(lambda t: (t.shape, t.dtype), batches)
    assert shape[0] == shape[1]
    stack([problem.full(), other.full()])
    assert (
        task.sample(generator(0), CPU)
        .loss(problem.parameters, problem.buffers, problem.full())[0]
        .isfinite()
    )
    if problem.draw_validation is not None:
        unseen = problem.draw_validation(generator("validation"))
        assert shape[0] == pytree.tree_map(lambda t: (t.shape, t.dtype), unseen)


def test_three_steps_of_adam_lower_the_loss(task):
    first, last, slopes, alive = run(task, create_rule("adam"), steps=3, lr=3e-3)
    assert alive.all() and last.isfinite().all()
    assert last.mean() < first.mean()
    assert all(slope.isfinite().all() for slope in slopes)


def test_second_derivatives_reach_the_start(task):
    sgd = create_rule("momentum")
    exact = run(task, sgd, steps=2, lr=1e-4, second_order=True)[2]
    rough = run(task, sgd, steps=2, lr=1e-4, second_order=False)[2]
    assert all(slope.isfinite().all() for slope in exact)
    assert any(not torch.allclose(a, b, rtol=1e-7) for a, b in zip(exact, rough, strict=True))


def test_validation_and_held_out_tasks_are_tasks_of_the_same_kind(family):
    first, other = sample_task(family), sample_task(family.validation())
    assert same(content(*draw(other)), content(*draw(other)))
    assert type(first) is type(other)
    held = family.held_out()
    assert held
    for title, task in list(held.items())[:3]:
        assert title == title.strip() and isinstance(task, Task)
        assert draw(task)[0].parameters


def test_tasks_can_be_pickled(family):
    for task in [*list(family.held_out().values())[:2], sample_task(family)]:
        again = pickle.loads(pickle.dumps(task))
        assert same(content(*draw(again)), content(*draw(task)))


def test_tasks_can_be_rescaled_at_random(task):
    changed = Reparametrized(task, 0.5, loss_rescale_range=0.5)
    (problem, (batch, _)), (plain, _) = draw(changed), draw(task)
    assert changed.sample_task(generator(0)).name == task.sample_task(generator(0)).name
    loss, buffers = problem.loss(problem.parameters, problem.buffers, batch)
    expected, _ = plain.loss(plain.parameters, plain.buffers, batch)
    assert buffers.keys() == problem.buffers.keys()
    ratio = float(loss / expected)
    assert 0.6 < ratio < 1.65 and abs(ratio - 1) > 1e-6
    assert (problem.draw_validation is None) == (plain.draw_validation is None)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("digits-mlp", {"split": "trian"}, "'trian'; did you mean 'train'"),
        ("digits-mlp", {"activation": "rely"}, "did you mean 'relu'"),
        ("digits-mlp", {"hidden": (0,)}, "0"),
        ("digits-mlp", {"batch_size": 0}, "batch_size"),
        ("digits-mlp", {"hiden": (3,)}, "did you mean 'hidden'"),
        ("quadratic", {"dimensions": 0}, "dimensions"),
        ("quadratic", {"condition": 0.5}, "condition must be at least 1 and finite, got 0.5"),
        ("quadratics", {}, "did you mean 'quadratic'"),
        ("test-functions", {"functions": ["rosenbrok"]}, "did you mean 'rosenbrock'"),
        ("test-functions", {"dimensions": (1, 4)}, r"2 <= low <= high, got \(1, 4\)"),
        ("logistic-regression", {"data": ["iriss"]}, "did you mean 'iris'"),
        ("random-mlp", {"data": []}, r"data must be a list of names, got \[\]"),
        ("random-mlp", {"data": "digits"}, "data must be a list, got 'digits'"),
        ("random-mlp", {"split": "tests"}, "did you mean 'test'"),
        ("random-mlp", {"depth": (2,)}, "depth must be two numbers"),
        ("random-mlp", {"width": (8, 4)}, "width must be two numbers"),
        ("random-mlp", {"activations": ["tanhh"]}, "did you mean 'tanh'"),
        ("random-mlp", {"scale_spread": -1.0}, "scale_spread must not be negative, got -1.0"),
        ("random-mlp", {"few_probability": 1.5}, "few_probability must be in"),
        ("random-mlp", {"full_rows": 0}, "full_rows must be at least 1, got 0"),
        ("random-mlp", {"widht": (8, 9)}, "did you mean 'width'"),
        ("conv", {"data": ["iris"]}, "unknown data 'iris'"),
        ("conv", {"batch_size": (1, 4)}, "batch_size must be at least 2"),
        ("autoencoder", {"code": (0, 2)}, "code must be two numbers"),
        ("char-rnn", {"length": (0, 2)}, "length must be two numbers"),
        ("char-transformer", {"heads": 0}, "heads must be from 1"),
        ("mixture", {"families": {}}, "at least one family"),
        ("mixture", {"families": {"digits-mpl": {}}}, "did you mean 'digits-mlp'"),
        ("mixture", {"families": {"quadratic": {"dimension": 3}}}, "did you mean 'dimensions'"),
        ("mixture", {"families": {"quadratic": {}}, "weights": [1, 2]}, r"weights .* \[1, 2\]"),
        ("mixture", {"families": {"quadratic": {}}, "weights": [0]}, r"weights .* \[0\]"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(name, wrong, message):
    with pytest.raises(ValueError, match=message) as caught:
        create_task(name, **wrong)
    assert "\n" not in str(caught.value)
