"""Small GRUs that predict the next character (Cho et al. 2014)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from meta_train.tasks.base import Task
from meta_train.tasks.data import LabelledData
from meta_train.tasks.families.char_family import CharFamily, NextSymbol
from meta_train.tasks.families.networks import rescale
from meta_train.tasks.families.sampling import sample_int


@dataclass(frozen=True, kw_only=True)
class CharRNN(CharFamily):
    """Language models with one GRU layer."""

    def sample_network(
        self, data: LabelledData, generator: torch.Generator
    ) -> Callable[[], nn.Module]:
        """Draw the width."""
        return functools.partial(_make, sample_int(generator, self.width), self.scale_spread)

    def held_out(self) -> dict[str, Task]:
        """The widest network of the family, and one twice as wide."""
        width, length = self.width[1], self.length[1]
        fixed: dict[str, Any] = {"length": (length, length)}
        return {
            f"GRU {width}, held-out text": self.fixed_task(width=(width, width), **fixed),
            f"wider: GRU {2 * width}": self.fixed_task(width=(2 * width, 2 * width), **fixed),
        }


class GRU(nn.Module):
    """A GRU layer written out step by step.

    `nn.GRU` has no second derivatives and no batching rule for `torch.vmap`.

    Args:
        width: size of inputs and hidden state.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.from_input = nn.Linear(width, 3 * width)
        self.from_hidden = nn.Linear(width, 3 * width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Run over the sequence, `[B, T, width] -> [B, T, width]`.

        r, z = sigmoid(W x + U h + b);  n = tanh(W x + b + r * (U h + b'));  h <- (1 - z) n + z h
        """
        hidden = torch.zeros_like(inputs[:, 0])
        outputs = []
        for step in self.from_input(inputs).unbind(1):
            reset_in, keep_in, new_in = step.chunk(3, -1)
            reset_h, keep_h, new_h = self.from_hidden(hidden).chunk(3, -1)
            reset, keep = (reset_in + reset_h).sigmoid(), (keep_in + keep_h).sigmoid()
            hidden = (1 - keep) * (new_in + reset * new_h).tanh() + keep * hidden
            outputs.append(hidden)
        return torch.stack(outputs, 1)


def _make(width: int, scale_spread: float) -> nn.Module:
    return rescale(NextSymbol(GRU(width), width), scale_spread)
