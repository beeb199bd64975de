"""Adds up, for each tensor, the sums over its blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from learned_opt.backends.triton.kernels.blocks import add_blocks
from learned_opt.backends.triton.table import TensorTable

ROWS = 256
"""Blocks whose sums are added at once."""

WARPS = 8


def no_sums(table: TensorTable, columns: int, dtype: torch.dtype) -> Tensor:
    """Zeros for the sums over each block of a table, `[blocks, columns]`."""
    return torch.zeros((table.count, columns), dtype=dtype, device=table.rows.device)


def add_up(table: TensorTable, partial: Tensor) -> Tensor:
    """The sums over each tensor, `[n, columns]`, in float64, added in the same order each time.

    Args:
        table: of the tensors.
        partial: sums over each block, `[blocks, columns]`; a power of two columns.
    """
    columns = partial.shape[1]
    total = torch.empty((table.tensors, columns), dtype=torch.float64, device=partial.device)
    add_blocks[(table.tensors,)](
        table.rows,
        partial,
        total,
        table.count,
        COLUMNS=columns,
        WIDTH=table.width,
        ROWS=ROWS,
        num_warps=WARPS,
    )
    return total
