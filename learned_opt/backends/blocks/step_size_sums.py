"""The sums that step-size-lstm measures, over the pieces of a block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from learned_opt.backends.blocks.tensor_blocks import TensorBlock
from learned_opt.rules.parts.tensor_directions import PAIRS, SUMS

FIRST, SECOND = (np.array(indices) for indices in zip(*PAIRS, strict=True))

BEFORE = np.array([1, 1, 1, 0, 2, 3, 0, 4]), np.array([1, 2, 3, 1, 2, 3, 0, 4])
"""Places of the first eight sums among the products of m9 / sqrt(v), g, m9, m99 and p."""

SUMMED = 3 << 14
"""Elements whose products are summed up at once, in float32: rounding grows with them."""


def fill_sums_of_one(
    before: Sequence[Tensor], masked: Tensor, directions: Tensor, sums: Tensor
) -> None:
    """The sums of one piece, in the order of `SUMS`.

    Only the products that are read: all products of five rows take longer.

    Args:
        before: gradient, m9, m99, m9 / sqrt(v) and parameter before the step, `[count]` each.
        masked: the parameter where v is not 0 after the step.
        directions: the four directions after the step, `[4, count]`.
        sums: gets the sums, `[23]`; zeros before.
    """
    g, *others = before
    dots = [torch.dot(g, x) for x in before[:4]] + [torch.dot(x, x) for x in others]
    dots.append(dots[-1] if masked is before[-1] else torch.dot(masked, masked))
    torch.stack(dots, out=sums[:9])
    length = -(-len(g) // -(-len(g) // SUMMED))
    for q, rows in zip(masked.split(length), directions.split(length, dim=1), strict=True):
        d, e, n, h = rows.unbind()
        products = torch.mv(rows, q), torch.mv(rows, d), torch.mv(rows[1:], e)
        sums[9:].add_(torch.cat([*products, torch.mv(rows[2:], n), torch.dot(h, h)[None]]))


def fill_sums_of_several(rows: Tensor, block: TensorBlock, sums: Tensor) -> None:
    """The sums of several pieces, in the order of `SUMS`.

    Args:
        rows: parameter where v is not 0, and the four directions, after the step; then
            m9 / sqrt(v), gradient, m9, m99 and parameter before it: `[10, sum of counts]`.
        block: of n pieces.
        sums: gets the sums, `[n, 23]`.
    """
    grams = torch.empty(2, len(sums), 5, 5, dtype=torch.float32, device="cpu")
    for half, products in zip((rows[:5], rows[5:]), grams, strict=True):
        for pieces, part in block.runs(half):
            torch.bmm(part.transpose(0, 1), part.permute(1, 2, 0), out=products[pieces])
    after, before = grams
    sums[:, :8] = before[:, *BEFORE]
    sums[:, 8:SUMS] = after[:, FIRST, SECOND]
