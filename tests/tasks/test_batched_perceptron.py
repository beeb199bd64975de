"""Losses of many perceptrons at once are those of one at a time."""

from dataclasses import replace

import pytest
import torch
from conftest import same
from torch import nn
from torch.nn import functional as F

from learned_opt import create_rule
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import cast, stack, start
from meta_train.runtime.seeding import generator
from meta_train.tasks import ModuleTask
from meta_train.tasks.base import BatchedLoss
from meta_train.tasks.reparametrized import Reparametrized

CPU = torch.device("cpu")


def mlp(outputs=4, activation=nn.Tanh, bias=True):
    layers = nn.Linear(6, 5, bias=bias), activation(), nn.Linear(5, outputs), nn.Identity()
    return nn.Sequential(*layers).double()


def data(targets, shape=(6,)):
    torch.manual_seed(0)
    return torch.randn(len(targets), *shape, dtype=torch.float64), targets


CLASSES = torch.arange(40) % 4
NUMBERS = torch.linspace(-1, 1, 160, dtype=torch.float64).reshape(40, 4)
CASES = {
    "classes": (mlp, F.cross_entropy, CLASSES),
    "numbers": (mlp, F.mse_loss, NUMBERS),
    "without bias": (lambda: mlp(bias=False), F.mse_loss, NUMBERS),
    "flattened": (lambda: nn.Sequential(nn.Flatten(), *mlp()), F.mse_loss, NUMBERS),
    "gelu": (lambda: mlp(activation=nn.GELU), F.cross_entropy, CLASSES),
    "activation first": (
        lambda: nn.Sequential(nn.Sigmoid(), nn.Identity(), *mlp()),
        F.cross_entropy,
        CLASSES,
    ),
}


def make_task(name):
    make_module, loss, targets = CASES[name]
    inputs = data(targets, (2, 3) if name == "flattened" else (6,))
    return ModuleTask(make_module, loss, inputs, 8)


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_losses_and_both_derivatives_are_those_of_one_run_at_a_time(name, rescaled):
    task = make_task(name)
    if rescaled:
        task = Reparametrized(task, 1.0, 1.0)
    problems = [task.sample(generator(seed), CPU) for seed in range(3)]
    batches = [problem.draw(generator("batch", k)) for k, problem in enumerate(problems)]
    inner = start(create_rule("sgd"), problems, vectorize=True)
    parameters = {key: value.clone().requires_grad_() for key, value in inner.parameters.items()}
    losses, buffers = problems[0].loss.many(parameters, inner.buffers, stack(batches))
    assert losses.shape == (3,) and buffers.keys() == inner.buffers.keys()
    rows = [
        ({k: v[row] for k, v in parameters.items()}, {k: v[row] for k, v in inner.buffers.items()})
        for row in range(3)
    ]
    expected = torch.stack(
        [p.loss(*row, batch)[0] for p, row, batch in zip(problems, rows, batches, strict=True)]
    )
    torch.testing.assert_close(losses, expected)
    found = []
    for value in (losses, expected):
        first = torch.autograd.grad(value.sum(), list(parameters.values()), create_graph=True)
        assert all(one.is_contiguous() for one in first) or value is expected
        size = sum(one.square().sum() for one in first)
        found.append([*first, *torch.autograd.grad(size, list(parameters.values()))])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("rescaled", [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_without_autograd_are_its_own_bit_for_bit(name, rescaled, dtype):
    task = Reparametrized(make_task(name), *rescaled) if any(rescaled) else make_task(name)
    problems = [task.sample(generator(seed), CPU) for seed in range(3)]
    batch = stack([problem.draw(generator("batch", k)) for k, problem in enumerate(problems)])
    inner, batch = (
        start(create_rule("sgd"), problems, vectorize=True).cast(dtype),
        cast(batch, dtype),
    )
    loss, factors = problems[0].loss, torch.tensor([0.5, -2.0, 3.0], dtype=dtype)
    parameters = {key: value.clone().requires_grad_() for key, value in inner.parameters.items()}
    losses, buffers = loss.many(parameters, inner.buffers, batch)
    for given in (None, factors):
        summed = losses.sum() if given is None else (given * losses).sum()
        expected = torch.autograd.grad(summed, list(parameters.values()), retain_graph=True)
        found = loss.gradients(inner.parameters, inner.buffers, batch, given)
        assert torch.equal(found[0], losses) and same(found[1], buffers)
        assert found[2].keys() == parameters.keys()
        assert same([found[2][key] for key in parameters], list(expected))
        assert all(value.is_contiguous() for value in found[2].values())


@pytest.mark.parametrize("differentiable", [False, True])
def test_a_step_by_them_is_a_step_by_autograd(differentiable):
    task = Reparametrized(make_task("classes"), 1.0, 1.0)
    problems = [task.sample(generator(seed), CPU) for seed in range(3)]
    batches = [problem.draw(generator("batch", k)) for k, problem in enumerate(problems)]
    rule = create_rule("adam").double()
    inner = start(rule, problems, vectorize=True)
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return problems[0].loss.gradients(*arguments)

    ends = []
    for gradients in (counted, None):
        loss = replace(problems[0].loss, gradients=gradients)
        loop = InnerLoop(rule, loss, vectorize=True, differentiable=differentiable)
        after, losses = loop.step(inner, stack(batches))
        ends.append([after.parameters, losses.detach()])
        assert len(calls) == 1
    assert same(*ends)


def test_second_derivatives_go_through_autograd():
    task = make_task("numbers")
    problems = [task.sample(generator(seed), CPU) for seed in range(2)]
    batch = stack([problem.draw(generator("batch")) for problem in problems])
    rule = create_rule("sgd").double()
    loop = InnerLoop(rule, problems[0].loss, vectorize=True, second_order=True)
    inner = start(rule, problems, vectorize=True)
    begin = {key: value.clone().requires_grad_() for key, value in inner.parameters.items()}
    after, _ = loop.step(replace(inner, parameters=begin), batch)
    _, losses = loop.loss_at(after, batch)
    found = torch.autograd.grad(losses.sum(), list(begin.values()))
    first_order = replace(loop, second_order=False)
    after, _ = first_order.step(replace(inner, parameters=begin), batch)
    _, losses = first_order.loss_at(after, batch)
    other = torch.autograd.grad(losses.sum(), list(begin.values()))
    assert not torch.allclose(found[0], other[0])


def test_a_large_logit_does_not_overflow():
    task = make_task("classes")
    problem = task.sample(generator(0), CPU)
    parameters = {key: 1e4 * value[None] for key, value in problem.parameters.items()}
    batch = problem.draw(generator("batch"))
    losses, _ = problem.loss.many(parameters, {}, stack([batch]))
    expected, _ = problem.loss({key: value[0] for key, value in parameters.items()}, {}, batch)
    assert losses.isfinite().all() and losses.item() == pytest.approx(expected.item())


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked():
    module = mlp()
    module[0].register_forward_hook(lambda part, inputs, output: 2 * output)
    return module


def tied_weights():
    module = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 4)).double()
    module[2].weight = module[0].weight
    return module


def twice():
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(6, 4)).double()


class Own(nn.Sequential):
    pass


OTHERS = {
    "a hook": (hooked, F.mse_loss, NUMBERS),
    "tied weights": (tied_weights, F.mse_loss, NUMBERS),
    "a layer that stands twice": (twice, F.mse_loss, NUMBERS),
    "a layer of one's own": (lambda: Doubled(6, 4).double(), F.mse_loss, NUMBERS),
    "a class of one's own": (lambda: Own(nn.Linear(6, 4)).double(), F.mse_loss, NUMBERS),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.Dropout()).double(),
        F.mse_loss,
        NUMBERS,
    ),
    "writing in place": (
        lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 4)).double(),
        F.mse_loss,
        NUMBERS,
    ),
    "another flattening": (
        lambda: nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 6)), nn.Linear(6, 4)).double(),
        F.mse_loss,
        NUMBERS,
    ),
    "another loss": (mlp, F.l1_loss, NUMBERS),
    "targets that are broadcast": (lambda: mlp(1), lambda x, y: F.mse_loss(x[:, 0], y), CLASSES),
    "classes to ignore": (mlp, F.cross_entropy, torch.where(CLASSES == 1, -100, CLASSES)),
    "probabilities": (mlp, F.cross_entropy, NUMBERS.softmax(1)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_else_goes_through_vmap(name):
    make_module, loss, targets = OTHERS[name]
    task = ModuleTask(make_module, loss, data(targets), 8)
    assert not isinstance(task.sample(generator(0), CPU).loss, BatchedLoss)


def test_inputs_of_several_axes_go_through_vmap():
    inputs, targets = torch.randn(40, 2, 6, dtype=torch.float64), torch.randn(40, 2, 4).double()
    task = ModuleTask(mlp, F.mse_loss, (inputs, targets), 8)
    assert not isinstance(task.sample(generator(0), CPU).loss, BatchedLoss)


def test_a_subclass_keeps_the_loss_of_its_own():
    class Doubling(ModuleTask):
        def loss(self, parameters, buffers, batch):
            value, buffers = super().loss(parameters, buffers, batch)
            return 2 * value, buffers

    make_module, loss, targets = CASES["classes"]
    task = Doubling(make_module, loss, data(targets), 8)
    assert task.sample(generator(0), CPU).loss == task.loss


def test_the_loop_takes_it_for_many_runs_only():
    task = make_task("classes")
    problems = [task.sample(generator(seed), CPU) for seed in range(2)]
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return problems[0].loss.many(*arguments)

    batch = problems[0].draw(generator("batch"))
    for vectorize in (False, True):
        chosen = problems if vectorize else problems[:1]
        loop = InnerLoop(create_rule("sgd"), BatchedLoss(task.loss, counted), vectorize)
        loop.step(
            start(loop.rule, chosen, vectorize=vectorize),
            stack([batch] * 2) if vectorize else batch,
        )
        assert len(calls) == vectorize
