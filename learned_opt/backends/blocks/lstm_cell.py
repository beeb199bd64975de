"""The LSTM cell for blocks of coordinates, in place.

Two thirds of a step are hyperbolic tangents, if torch's own computes them. Here they come from
`expm1`, in half the time and within 3 units in the last place:

    tanh(x) = e / (e + 2),  e = exp(2 x) - 1
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learned_opt.backends.blocks.rows import Rows

LARGEST_EXPONENT = 86.0
"""e^86 and 2 more are finite in float32, and their ratio is 1."""


@dataclass(frozen=True, slots=True)
class PackedCell:
    """Weights of a cell, as `step_cell` reads them.

    Attributes:
        weight: `[4 H, inputs + H]`; of the candidate z, doubled.
        bias: `[4 H, 1]`, likewise.
    """

    weight: Tensor
    bias: Tensor


def pack_weights(weight: Tensor, bias: Tensor) -> PackedCell:
    """Weights `[inputs + H, 4 H]` and bias `[4 H]` of a cell, columns in the order i, f, o, z."""
    units = len(bias) // 4
    doubled = torch.ones(4 * units, 1, dtype=weight.dtype, device="cpu")
    doubled[3 * units :] = 2
    return PackedCell((weight.t() * doubled).float(), (bias.unsqueeze(-1) * doubled).float())


def step_cell(
    cell: PackedCell, rows: Rows, seen: Tensor, h: Tensor, c: Tensor, work: str = "gates"
) -> None:
    """Step the coordinates of a block in place.

    Args:
        cell: the weights.
        rows: of the block; `work` names at least 5 H of them, to work in.
        seen: the inputs and the last h, `[inputs + H, N]`.
        h: gets the new h, `[H, N]`; may be part of `seen`.
        c: the last c, which becomes the new one, `[H, N]`.
        work: see `rows`.
    """
    units = len(c)
    torch.addmm(cell.bias, cell.weight, seen, out=rows.part(work, 0, 4 * units))
    rows.part(work, 0, 3 * units).sigmoid_()
    i, f, o, z, spare = (rows.part(work, k * units, units) for k in range(5))
    tangent_of_half_(z, spare)
    c.mul_(f).addcmul_(i, z)
    torch.add(c, c, out=z)
    tangent_of_half_(z, spare)
    torch.mul(o, z, out=h)


def tangent_of_half_(x: Tensor, spare: Tensor) -> None:
    """Replace x by tanh(x / 2); `spare` is memory of the same shape."""
    x.clamp_(max=LARGEST_EXPONENT).expm1_()
    torch.add(x, 2, out=spare)
    x.div_(spare)
