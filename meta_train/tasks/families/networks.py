"""Building blocks of the families' networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def make_mlp(
    sizes: Sequence[int], make_activation: Callable[[], nn.Module], scale_spread: float = 0.0
) -> nn.Module:
    """Build an MLP `[*, sizes[0]] -> [*, sizes[-1]]`. For `scale_spread` see `rescale`."""
    layers: list[nn.Module] = []
    for k in range(len(sizes) - 1):
        layers += [nn.Linear(sizes[k], sizes[k + 1]), make_activation()]
    return rescale(nn.Sequential(*layers[:-1]), scale_spread)


def rescale(module: nn.Module, spread: float) -> nn.Module:
    """Multiply all weight matrices by one factor exp(U(-spread, spread)); vectors stay."""
    if spread > 0:
        factor = math.exp(spread * (2 * float(torch.rand((), dtype=torch.float32)) - 1))
        with torch.no_grad():
            for weight in module.parameters():
                if weight.dim() > 1:
                    weight.mul_(factor)
    return module
