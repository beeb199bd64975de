"""Recurrent networks written out in plain operations, which many runs can share under `vmap`.

`char-rnn` trains torch's fused GRU, which `vmap` cannot batch: it goes one run at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meta_train.tasks.base import Task
from meta_train.tasks.data import LabelledData
from meta_train.tasks.families.char_family import CharFamily, NextSymbol
from meta_train.tasks.families.networks import rescale
from meta_train.tasks.families.sampling import check_names, sample_choice, sample_int

CELLS = ("tanh", "gated")


@dataclass(frozen=True, kw_only=True)
class CharRecurrent(CharFamily):
    """Predict each next character with a simple recurrent network or a minimal gated unit.

    Attributes:
        length: range of the characters of a window.
        cells: "tanh" (Elman 1990) or "gated" (Zhou et al. 2016, arXiv 1603.09420); each task draws
            one.
    """

    length: Sequence[int] = (6, 12)
    cells: Sequence[str] = CELLS

    def __post_init__(self) -> None:
        """See `CharFamily`."""
        super().__post_init__()
        check_names("cell", self.cells, CELLS)

    def sample_network(
        self, data: LabelledData, generator: torch.Generator
    ) -> Callable[[], nn.Module]:
        """Draw the width and the cell."""
        width, cell = sample_int(generator, self.width), sample_choice(generator, self.cells)
        return functools.partial(_make, width, cell, self.scale_spread)

    def held_out(self) -> dict[str, Task]:
        """The largest network of the family with each cell."""
        width, length = (self.width[1],) * 2, (self.length[1],) * 2
        return {
            f"{cell} cell of {width[0]}": self.fixed_task(width=width, length=length, cells=(cell,))
            for cell in self.cells
        }


class Recurrent(nn.Module):
    """One recurrent layer: h' = tanh(W x + U h + b), or the minimal gated unit.

    Args:
        width: size of inputs and state.
        gated: h' = (1 - f) h + f tanh(W x + U (f h) + b) with a gate f of the same kind.
    """

    def __init__(self, width: int, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        self.inputs = nn.Linear(width, width)
        self.state = nn.Linear(width, width, bias=False)
        if gated:
            self.gate_inputs = nn.Linear(width, width)
            self.gate_state = nn.Linear(width, width, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[B, T, width] -> [B, T, width]`."""
        h = torch.zeros_like(inputs[:, 0])
        driven = self.inputs(inputs).unbind(1)
        gates = self.gate_inputs(inputs).unbind(1) if self.gated else driven
        states = []
        for x, g in zip(driven, gates, strict=True):
            if self.gated:
                f = torch.sigmoid(g + self.gate_state(h))
                h = torch.lerp(h, torch.tanh(x + self.state(f * h)), f)
            else:
                h = torch.tanh(x + self.state(h))
            states.append(h)
        return torch.stack(states, 1)


def _make(width: int, cell: str, scale_spread: float) -> nn.Module:
    return rescale(NextSymbol(Recurrent(width, cell == "gated"), width), scale_spread)
