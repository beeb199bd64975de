"""Launches the cell of `adam-lstm`."""

from __future__ import annotations

import torch
from torch import Tensor

from learned_opt.backends.triton.dtypes import TRITON_DTYPES
from learned_opt.backends.triton.kernels.adam_lstm import step_blocks
from learned_opt.backends.triton.table import Dtypes, TensorTable
from learned_opt.rules.adam_lstm import FADE, SMALLEST, AdamLSTM

WARPS = 4


def block_size(hidden_size: int) -> int:
    """Coordinates of a block; each thread gets as many as its registers have room for."""
    to_a_thread = 4 if hidden_size <= 12 else 2 if hidden_size <= 32 else 1
    return 32 * WARPS * to_a_thread


def step(
    rule: AdamLSTM,
    table: TensorTable,
    dtypes: Dtypes,
    numbers: Tensor,
    decays: Tensor,
    finite: Tensor,
    sign: float,
    *,
    unit_major: bool,
) -> tuple[Tensor, Tensor]:
    """Step tensors in place; see `step_blocks` for the arguments.

    Returns:
        Whether all of each tensor was written, and whether some of it was, `[n]` each, boolean.
    """
    skipped = torch.zeros_like(finite, dtype=torch.int8)
    moved = torch.zeros_like(skipped)
    bend_bound = rule.head.weight[1].abs().sum() + rule.head.bias[1].abs()
    step_blocks[(table.count,)](
        table.rows,
        table.blocks,
        numbers,
        decays,
        rule.lstm.weight.detach(),
        rule.lstm.bias.detach(),
        rule.head.weight.detach(),
        rule.head.bias.detach(),
        finite.to(torch.int8),
        skipped,
        moved,
        sign,
        rule.log_range,
        rule.log_gain,
        rule.direction_gain,
        bend_bound.detach(),
        FADE,
        SMALLEST,
        H=rule.hidden_size,
        BETAS=len(rule.betas),
        MAIN=rule.main,
        SHORTEST=rule.shortest,
        UNIT_MAJOR=unit_major,
        NUMBERS=numbers.shape[1],
        WIDTH=table.width,
        BLOCK=block_size(rule.hidden_size),
        P_TYPE=TRITON_DTYPES[dtypes[0]],
        G_TYPE=TRITON_DTYPES[dtypes[1]],
        num_warps=WARPS,
    )
    return skipped == 0, moved != 0
