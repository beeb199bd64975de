import pytest
import torch
from conftest import same
from torch import nn

from meta_train.seeding import derive_seed, generator
from meta_train.tasks import DigitsMLP, ModuleTask, Quadratic, create_task, list_tasks

CPU = torch.device("cpu")


@pytest.fixture(params=list_tasks())
def task(request):
    return create_task(request.param)


def draw(task, seed=0):
    problem = task.sample(generator("problem", seed), CPU)
    return problem, [problem.draw(generator("batch", seed, k)) for k in range(2)]


def test_equal_generators_draw_equal_problems_and_batches(task):
    (first, batches), (second, again) = draw(task), draw(task)
    assert same(first.parameters, second.parameters)
    assert same(first.buffers, second.buffers)
    assert same(batches, again)
    assert first.loss == second.loss


def test_other_generators_draw_other_problems(task):
    (first, batches), (second, others) = draw(task, 0), draw(task, 1)
    assert not same(first.parameters, second.parameters)
    assert not same(batches, others)


def test_sampling_leaves_the_global_random_state_alone(task):
    before = torch.get_rng_state()
    draw(task)
    assert same(torch.get_rng_state(), before)


def test_a_loss_is_pure_and_differentiable(task):
    problem, (batch, _) = draw(task)
    parameters = {key: value.clone().requires_grad_() for key, value in problem.parameters.items()}
    (loss, buffers), (again, _) = (task.loss(parameters, problem.buffers, batch) for _ in range(2))
    assert loss.shape == ()
    assert buffers.keys() == problem.buffers.keys()
    assert same(loss, again)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert same({key: value.detach() for key, value in parameters.items()}, problem.parameters)


def test_many_problems_run_under_vmap(task):
    problems, batches = zip(*(draw(task, seed) for seed in range(2)), strict=True)
    tree = torch.utils._pytree.tree_map
    parameters, batch = (
        tree(lambda *t: torch.stack(t), *things)
        for things in ([p.parameters for p in problems], [b[0] for b in batches])
    )
    losses, _ = torch.func.vmap(task.loss)(parameters, {}, batch)
    for k in range(2):
        alone, _ = task.loss(problems[k].parameters, {}, batches[k][0])
        torch.testing.assert_close(losses[k], alone)


def test_all_batches_have_one_shape_and_full_is_a_batch_too(task):
    problem, batches = draw(task)
    shapes = [torch.utils._pytree.tree_map(lambda t: t.shape, b) for b in batches]
    assert shapes[0] == shapes[1]
    assert task.loss(problem.parameters, problem.buffers, problem.full())[0].isfinite()


def test_the_quadratic_is_the_papers():
    """|W theta - y|^2, 10 dimensions: Andrychowicz et al. 2016, section 3.1."""
    problem, ((w, y), _) = draw(Quadratic())
    theta = problem.parameters["theta"]
    assert w.shape == (10, 10)
    loss, _ = problem.loss(problem.parameters, {}, (w, y))
    torch.testing.assert_close(loss, (w @ theta - y).norm() ** 2)


def test_splits_of_the_digits_are_disjoint_and_complete():
    rows = []
    for split, count in (("train", 1000), ("validation", 400), ("test", 397)):
        images, labels = draw(DigitsMLP(split=split))[0].full()
        assert images.shape == (count, 64) and labels.shape == (count,)
        assert images.min() == 0 and images.max() == 1
        rows += [tuple(row) for row in images.tolist()]
    assert len(rows) == 1797
    assert len(set(rows)) == 1797


def test_digits_batches_come_from_their_split():
    task = DigitsMLP(split="test", batch_size=32)
    problem, ((images, labels), _) = draw(task)
    known = {tuple(row): int(label) for row, label in zip(*map(list, _rows(problem)), strict=True)}
    for row, label in zip(images.tolist(), labels.tolist(), strict=True):
        assert known[tuple(row)] == label


def _rows(problem):
    images, labels = problem.full()
    return images.tolist(), labels.tolist()


def test_digits_networks_have_the_sizes_asked_for():
    problem, _ = draw(DigitsMLP(hidden=(7, 5), activation="relu"))
    shapes = [tuple(value.shape) for value in problem.parameters.values()]
    assert shapes == [(7, 64), (7,), (5, 7), (5,), (10, 5), (10,)]


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("digits-mlp", {"split": "trian"}, "'trian'; did you mean 'train'"),
        ("digits-mlp", {"activation": "rely"}, "did you mean 'relu'"),
        ("digits-mlp", {"hidden": (0,)}, "0"),
        ("digits-mlp", {"batch_size": 0}, "batch_size"),
        ("digits-mlp", {"hiden": (3,)}, "did you mean 'hidden'"),
        ("quadratic", {"dimensions": 0}, "dimensions"),
        ("quadratics", {}, "did you mean 'quadratic'"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(name, wrong, message):
    with pytest.raises(ValueError, match=message) as caught:
        create_task(name, **wrong)
    assert "\n" not in str(caught.value)


def test_a_module_and_data_of_the_users_own_make_a_task():
    inputs, targets = torch.randn(5, 3), torch.randn(5, 2)
    task = ModuleTask(lambda: nn.Linear(3, 2), nn.functional.mse_loss, (inputs, targets), 4)
    problem, ((x, y), _) = draw(task)
    assert x.shape == (4, 3) and y.shape == (4, 2)
    loss, _ = problem.loss(problem.parameters, {}, (x, y))
    expected = nn.functional.linear(x, problem.parameters["weight"], problem.parameters["bias"])
    torch.testing.assert_close(loss, nn.functional.mse_loss(expected, y))


@pytest.mark.parametrize("sizes", [(3, 4), (0, 0)])
def test_data_that_does_not_fit_together_is_refused(sizes):
    data = [torch.ones(size, 1) for size in sizes]
    with pytest.raises(ValueError, match=f"{sizes[0]} inputs, {sizes[1]} targets"):
        ModuleTask(lambda: nn.Linear(1, 1), nn.functional.mse_loss, data)


def test_seeds_depend_on_their_path_only():
    assert derive_seed("a", 1) == derive_seed("a", 1)
    paths = [("a", 1), ("a", "1"), ("a", 2), (1, "a"), ("a/1",), ("a",), ()]
    seeds = {derive_seed(*path) for path in paths}
    assert len(seeds) == len(paths)
    assert all(0 <= seed < 2**63 for seed in seeds)
