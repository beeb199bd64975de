"""The inputs of the LSTM rules of papers, in place; see `learned_opt.rules.parts.features`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from learned_opt.backends.blocks.rows import Rows
from learned_opt.rules.parts.features import RECENT_DECAY, smallest_known


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The preprocessing of gradients for one p; numbers are tensors, `[]`."""

    least: float
    per_p: Tensor
    power: Tensor
    decay: Tensor
    per_known: Tensor

    def split(self, value: Tensor, out: Tensor) -> None:
        """Write `log_sign` of `[1, N]` into `[2, N]`."""
        logs, signs = out.split(1)
        torch.abs(value, out=logs).clamp_(min=self.least).log_().mul_(self.per_p)
        torch.mul(value, self.power, out=signs).clamp_(-1, 1)

    def known(self, size: Tensor, recent: Tensor, out: Tensor) -> Tensor:
        """Update the `recent` size of a gradient by its magnitude; return the known share."""
        recent.mul_(self.decay)
        torch.maximum(recent, size, out=recent)
        return torch.mul(recent, self.per_known, out=out).clamp_(max=1)


def preprocess(p: float) -> Preprocessing:
    """The preprocessing with a constant p."""
    numbers = (1 / p, math.exp(p), RECENT_DECAY, 1 / smallest_known(p))
    made = torch.tensor(numbers, dtype=torch.float32, device="cpu")
    return Preprocessing(math.exp(-p), *made.unbind())


def split_loss(loss: float, p: float) -> Tensor:
    """`log_sign` of the loss, `[2]` in double."""
    size = abs(loss)
    if size >= math.exp(-p):
        values = math.log(size) / p, math.copysign(1.0, loss)
    else:
        values = -1.0, loss * math.exp(p)
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def find_active(size: Tensor, state: Tensor, rows: Rows, work: str) -> Tensor | None:
    """Which coordinates are not idle, 1 or 0 in `[1, N]`; None if none is.

    Args:
        size: the magnitude of the gradient, `[1, N]`.
        state: that tells, before the step, `[H, N]`.
        rows: of the block.
        work: names `H` rows to work in.
    """
    if float(size.amin()) > 0:
        return None
    sizes = torch.abs(state, out=rows.part(work, 0, len(state)))
    return sizes.sum(0, keepdim=True).add_(size).sign_()
