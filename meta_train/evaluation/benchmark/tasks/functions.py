"""Tasks without a data set: a differential equation and quadratic functions."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from meta_train.evaluation.benchmark.tasks import models
from meta_train.evaluation.benchmark.workload import (
    Batch,
    Workload,
    regression,
    split,
)

PULSE = 0.2
"""Height of the fast part of the equation's solution."""

POINT = 100
"""Parameters of the noisy quadratic function."""


def _solution(x: Tensor) -> Tensor:
    return torch.sin(math.pi * x) + PULSE * torch.sin(5 * math.pi * x)


def _residual(model: nn.Module, batch: Batch) -> Tensor:
    """How far the model is from u'' = f with u(-1) = u(1) = 0, relative to f."""
    with torch.enable_grad():  # the loss differentiates, also where it is only measured
        (points,) = batch
        points = points.detach().requires_grad_()
        slope = torch.autograd.grad(model(points).sum(), points, create_graph=True)[0]
        curvature = torch.autograd.grad(slope.sum(), points, create_graph=True)[0]
        slow, fast = ((k * math.pi) ** 2 * torch.sin(k * math.pi * points.detach()) for k in (1, 5))
        source = -(slow + PULSE * fast)
        ends: Tensor = model(torch.tensor([[-1.0], [1.0]]))
        inside = (curvature - source).square().mean() / source.square().mean()
        return inside + ends.square().mean()


def _distance(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared distance to the solution."""
    (points,) = batch
    distance: Tensor = model(points) - _solution(points)
    return distance.square().mean()


def poisson_pinn() -> Workload:
    """A physics-informed network 1-32-32-1 for u'' = f (Raissi et al. 2019), always 96 points."""
    train = (torch.linspace(-1, 1, 96)[:, None],)
    test = (torch.linspace(-0.99, 0.99, 200)[:, None],)
    return Workload(models.mlp((1, 32, 32, 1), nn.Tanh), train, test, _residual, _distance)


def _quadratic(model: nn.Module, batch: Batch) -> Tensor:
    """Half the sum of h_k value_k^2 with h_k = k^-1.5, and a slope from the batch."""
    (slopes,) = batch
    curvature = torch.arange(1, POINT + 1).float() ** -1.5
    value: Tensor = model(slopes)
    return (curvature * (0.5 * value.square() - value * slopes)).sum(-1).mean()


def noisy_quadratic() -> Workload:
    """A quadratic function of 100 numbers, curvatures 1 to .001, whose gradient is noisy.

    Slopes come in pairs of opposite sign, so the mean over the fixed set is the function itself.
    """
    random = torch.Generator().manual_seed(4)
    half = torch.randn(2500, 1, POINT, generator=random)
    slopes = torch.cat([half, -half], 1).flatten(0, 1)
    return Workload(
        models.Point(POINT), (slopes[:-1000],), (slopes[-1000:],), _quadratic, _quadratic
    )


@functools.cache
def _stretched() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(5)
    turn = torch.linalg.qr(torch.randn(64, 64, generator=random))[0]
    inputs = torch.randn(5000, 64, generator=random) * torch.logspace(0.5, -1.5, 64)
    truth = torch.randn(64, 16, generator=random) / torch.logspace(0.5, -1.5, 64)[:, None] ** 0.5
    noise = 0.1 * torch.randn(5000, 16, generator=random)
    return inputs @ turn, inputs @ truth / 4 + noise


def stretched_regression() -> Workload:
    """Linear regression of 64 inputs on 16 outputs; squared singular values of 1 to 10,000."""
    train, test = split(_stretched(), 1000)
    return regression(nn.Linear(64, 16), (train[0], train[1]), (test[0], test[1]))
