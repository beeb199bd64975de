"""Launches the elementwise passes of `orthogonal-momentum`."""

from __future__ import annotations

import torch
from torch import Tensor

from learned_opt.backends.triton.dtypes import TRITON_DTYPES
from learned_opt.backends.triton.kernels.orthogonal import combine_blocks, measure_blocks
from learned_opt.backends.triton.sums import add_up, no_sums
from learned_opt.backends.triton.table import Dtypes, TensorTable

BLOCK = 2048
"""Elements of a block: eight for each of 256 threads."""

SUMS = 7
"""Sums over each tensor; see `measure_blocks`."""

COLUMNS = 8
"""Columns of the sums in memory, a power of two."""

WARPS = 8


def measure(
    table: TensorTable,
    dtypes: Dtypes,
    numbers: Tensor,
    decays: Tensor,
    sign: float,
    *,
    is_matrix: bool,
) -> Tensor:
    """Sums over each tensor, `[n, SUMS]`, in float64; see `measure_blocks` for the arguments."""
    partial = no_sums(table, COLUMNS, torch.float64)
    measure_blocks[(table.count,)](
        table.rows,
        table.blocks,
        numbers,
        partial,
        decays,
        sign,
        IS_MATRIX=is_matrix,
        NUMBERS=numbers.shape[1],
        COLUMNS=COLUMNS,
        WIDTH=table.width,
        BLOCK=BLOCK,
        P_TYPE=TRITON_DTYPES[dtypes[0]],
        G_TYPE=TRITON_DTYPES[dtypes[1]],
        num_warps=WARPS,
    )
    return add_up(table, partial)[:, :SUMS]


def combine(
    table: TensorTable,
    dtypes: Dtypes,
    numbers: Tensor,
    written: Tensor,
    decays: Tensor,
    sign: float,
    *,
    is_matrix: bool,
) -> None:
    """Write parameters, momenta and averages where `written`; see `combine_blocks`."""
    combine_blocks[(table.count,)](
        table.rows,
        table.blocks,
        numbers,
        written.to(torch.int8),
        decays,
        sign,
        IS_MATRIX=is_matrix,
        NUMBERS=numbers.shape[1],
        WIDTH=table.width,
        BLOCK=BLOCK,
        P_TYPE=TRITON_DTYPES[dtypes[0]],
        G_TYPE=TRITON_DTYPES[dtypes[1]],
        num_warps=WARPS,
    )
