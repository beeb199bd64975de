"""Helpers of all tests: every registered rule as a fixture, a tiny model, exact comparisons."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule, list_rules
from learned_opt.adaptation import Initialization
from learned_opt.rules import CoordinateRule

torch.set_num_threads(1)

COORDINATE_RULES = [name for name in list_rules() if isinstance(create_rule(name), CoordinateRule)]


def pytest_collection_modifyitems(config, items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU, this machine has none"))


@pytest.fixture(params=list_rules())
def rule_name(request):
    return request.param


@pytest.fixture
def rule(rule_name):
    return make_rule(rule_name)


def make_rule(name, dtype=torch.float32, seed=0, spread=0.0, **settings):
    """A rule with reproducible weights; `spread` adds noise, so that no path is nearly constant."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rule = create_rule(name, **settings)
        for weight in rule.parameters():
            weight.data += spread * torch.randn(weight.shape)
    return rule.to(dtype)


def make_model(dtype=torch.float32, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def make_batch(dtype=torch.float32, seed=0):
    random = np.random.default_rng(seed)
    return (
        torch.tensor(random.normal(size=(8, 3)), dtype=dtype),
        torch.tensor(random.normal(size=(8, 2)), dtype=dtype),
    )


def initialization_of(module, **fields):
    """A copy of a module's parameters as an initialisation."""
    return Initialization({k: v.detach().clone() for k, v in module.named_parameters()}, **fields)


def weights(module):
    """Copies of a module's parameters."""
    return clones(module.parameters())


def model_loss(model, dtype=torch.float32):
    inputs, targets = make_batch(dtype)
    return nn.functional.mse_loss(model(inputs), targets)


def train(model, optimizer, steps):
    """Train with a closure; return the loss before each step."""
    dtype = next(model.parameters()).dtype

    def closure():
        optimizer.zero_grad()
        loss = model_loss(model, dtype)
        loss.backward()
        return loss

    return [optimizer.step(closure).item() for _ in range(steps)]


def step_with(optimizer, *gradients, loss=1.0):
    """One step on given gradients, in the order of the groups' parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return optimizer.step(lambda: loss)


def make_optimizer(rule, *values, **settings):
    """An optimizer of new leaf parameters with these values."""
    settings.setdefault("total_steps", 100)
    parameters = [nn.Parameter(value.clone()) for value in values]
    return LearnedOptimizer(parameters, rule=rule, **settings), parameters


def clones(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def same(left, right):
    """Whether two nested structures are equal, tensors bitwise (shape, dtype and NaNs included)."""
    if isinstance(left, torch.Tensor) or isinstance(right, torch.Tensor):
        return (
            isinstance(left, torch.Tensor)
            and isinstance(right, torch.Tensor)
            and left.dtype == right.dtype
            and left.shape == right.shape
            and torch.equal(_bytes(left), _bytes(right))
        )
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, Sequence) and not isinstance(left, str):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


def _bytes(tensor):
    # Not `contiguous`, which keeps the strides of an empty tensor.
    plain = tensor.detach().clone(memory_format=torch.contiguous_format)
    return plain.reshape(-1).view(torch.uint8)


def rounding(dtype, terms):
    """Tolerances for sums of numbers of size 1 or so that may be added in another order.

    A sum of n numbers is off by at most about n eps (Higham 2002, section 4.2). Matrix products of
    other shapes need it: no BLAS promises equal bits for them. Four sums may follow each other.
    """
    tolerance = 4 * terms * torch.finfo(dtype).eps
    return {"rtol": tolerance, "atol": tolerance}


def without_step(state):
    """The rest of a state, with -0.0 written 0.0."""
    return {key: value.detach() + 0.0 for key, value in state.items() if key != "step"}


class Heads(nn.Module):
    """A model with two heads; each batch names its head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x, left):
        return (self.left if left else self.right)(x)
