"""Coordinate-wise rules under faster code: random weights, steps, and what they left behind."""

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.backends.registry import FUSED_STEPS
from learned_opt.c_library import load_library
from learned_opt.optimizer import fused as driver

NAMES = ["lstm", "gated-lstm", "momentum-gated-lstm", "adam-lstm"]


@pytest.fixture(params=["C", "torch"])
def code(request, monkeypatch):
    """What the faster code of optimizers is written in: C, or PyTorch operations on blocks."""
    if request.param == "C" and load_library() is None:
        pytest.skip("the C library was not compiled")

    def fused_steps(rule):
        found = [cls() for cls in FUSED_STEPS[type(rule)] if cls.code == request.param]
        return [step for step in found if not step.refuses_parameter(torch.zeros(2))]

    monkeypatch.setattr(driver, "fused_steps", fused_steps)
    return request.param


def random_rule(name, **settings):
    torch.manual_seed(0)
    rule = create_rule(name, **settings)
    with torch.no_grad():
        for weight in rule.parameters():
            weight.add_(0.2 * torch.randn(weight.shape))
    return rule


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def optimizer_of(rule, *parameters, **options):
    return LearnedOptimizer([nn.Parameter(p.clone()) for p in parameters], rule=rule, **options)


def step(optimizer, *gradients, loss=1.5):
    parameters = optimizer.param_groups[0]["params"]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step(lambda: torch.tensor(loss))


def everything(optimizer):
    parameters = optimizer.param_groups[0]["params"]
    return [[p.detach(), *(optimizer.state[p][key] for key in optimizer.state[p])]
            for p in parameters]  # fmt: skip
