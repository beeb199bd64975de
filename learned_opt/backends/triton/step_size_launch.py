"""Launches the two passes of the step-size LSTM."""

from __future__ import annotations

import torch
from torch import Tensor

from learned_opt.backends.triton.dtypes import TRITON_DTYPES
from learned_opt.backends.triton.kernels.step_size import combine_blocks, measure_blocks
from learned_opt.backends.triton.sums import add_up, no_sums
from learned_opt.backends.triton.table import Dtypes, TensorTable

BLOCK = 2048
"""Elements of a block: eight for each of 256 threads."""

SUMS = 24
"""Sums over each tensor: those of the rule, and that of v, which tells whether it is finite."""

COLUMNS = 32
"""Columns of the sums in memory, a power of two."""

COEFFICIENTS = 6
"""Numbers of a tensor that `combine_blocks` reads."""

WARPS = 8


def measure(table: TensorTable, dtypes: Dtypes, sign: float) -> Tensor:
    """Sums over each tensor, `[n, SUMS]`, in float64.

    Args:
        table: of gradient, parameter, m9, m99 and v.
        dtypes: of the parameters and the gradients.
        sign: -1 to maximise, else 1.
    """
    partial = no_sums(table, COLUMNS, torch.float32)
    measure_blocks[(table.count,)](
        table.rows,
        table.blocks,
        partial,
        sign,
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
    coefficients: Tensor,
    written: Tensor,
    sign: float,
) -> None:
    """Write parameters and averages in place.

    Args:
        table: as in `measure`.
        dtypes: of the parameters and the gradients.
        coefficients: `[n, COEFFICIENTS]`, float32; see `combine_blocks`.
        written: `[n]`, boolean; the others stay as they are, bit for bit.
        sign: -1 to maximise, else 1.
    """
    combine_blocks[(table.count,)](
        table.rows,
        table.blocks,
        coefficients.contiguous(),
        written.to(torch.int8),
        sign,
        COEFFICIENTS=COEFFICIENTS,
        WIDTH=table.width,
        BLOCK=BLOCK,
        P_TYPE=TRITON_DTYPES[dtypes[0]],
        G_TYPE=TRITON_DTYPES[dtypes[1]],
        num_warps=WARPS,
    )
