"""The two passes of the step-size LSTM over all tensors: sums of products, then the step.

The first reads five arrays (20 bytes a parameter), the second reads them again and writes four.
The formulas are those of `learned_opt.rules.parts.tensor_directions`, and tests hold them to it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from learned_opt.backends.triton.kernels.blocks import find_block, load_block, store_block
from learned_opt.rules.parts import tensor_directions as directions
from learned_opt.rules.parts.tensor_directions import BETA_FAST, BETA_SLOW, BETA_SQUARE

GRADIENT: tl.constexpr = tl.constexpr(0)
PARAMETER: tl.constexpr = tl.constexpr(1)
M9: tl.constexpr = tl.constexpr(2)
M99: tl.constexpr = tl.constexpr(3)
V: tl.constexpr = tl.constexpr(4)
"""Columns of addresses in the table."""

FAST_WEIGHT: tl.constexpr = tl.constexpr(1 - BETA_FAST)
SLOW_WEIGHT: tl.constexpr = tl.constexpr(1 - BETA_SLOW)
SQUARE_DECAY: tl.constexpr = tl.constexpr(BETA_SQUARE)
SQUARE_WEIGHT: tl.constexpr = tl.constexpr(1 - BETA_SQUARE)
EPS: tl.constexpr = tl.constexpr(directions.EPS)
"""A kernel reads no other numbers of a module."""


@triton.jit
def _averages(g, m9, m99, v):
    """The moving averages after the gradient, and 1 / sqrt(v)."""
    m9 = m9 + FAST_WEIGHT * (g - m9)
    m99 = m99 + SLOW_WEIGHT * (g - m99)
    v = SQUARE_DECAY * v + SQUARE_WEIGHT * g * g
    return m9, m99, v, tl.rsqrt(v + EPS)


@triton.jit
def measure_blocks(
    table,
    blocks,
    partial,
    sign,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    P_TYPE: tl.constexpr,
    G_TYPE: tl.constexpr,
):
    """Sums over each block, one column for each: `partial` is `[blocks, COLUMNS]`, float32.

    sign: -1 to maximise, else 1.
    """
    _, row, start, left, full = find_block(table, blocks, WIDTH, BLOCK)
    offsets = tl.arange(0, BLOCK)
    g = sign * load_block(row, GRADIENT, G_TYPE, start, left, full, offsets)
    p = load_block(row, PARAMETER, P_TYPE, start, left, full, offsets)
    m9 = load_block(row, M9, tl.float32, start, left, full, offsets)
    m99 = load_block(row, M99, tl.float32, start, left, full, offsets)
    v = load_block(row, V, tl.float32, start, left, full, offsets)
    out = partial + tl.program_id(0).to(tl.int64) * COLUMNS

    # In the order of `learned_opt.rules.parts.tensor_directions.SUMS`.
    adam = m9 * tl.rsqrt(v + EPS)
    tl.store(out + 0, tl.sum(g * g))
    tl.store(out + 1, tl.sum(g * m9))
    tl.store(out + 2, tl.sum(g * m99))
    tl.store(out + 3, tl.sum(g * adam))
    tl.store(out + 4, tl.sum(m9 * m9))
    tl.store(out + 5, tl.sum(m99 * m99))
    tl.store(out + 6, tl.sum(adam * adam))
    tl.store(out + 7, tl.sum(p * p))

    m9, m99, v, inverse = _averages(g, m9, m99, v)
    seen = tl.where(v == 0.0, 0.0, p)
    adam = m9 * inverse
    slow = m99 * inverse
    scaled = g * inverse
    tl.store(out + 8, tl.sum(seen * seen))
    tl.store(out + 9, tl.sum(seen * adam))
    tl.store(out + 10, tl.sum(seen * slow))
    tl.store(out + 11, tl.sum(seen * m9))
    tl.store(out + 12, tl.sum(seen * scaled))
    tl.store(out + 13, tl.sum(adam * adam))
    tl.store(out + 14, tl.sum(adam * slow))
    tl.store(out + 15, tl.sum(adam * m9))
    tl.store(out + 16, tl.sum(adam * scaled))
    tl.store(out + 17, tl.sum(slow * slow))
    tl.store(out + 18, tl.sum(slow * m9))
    tl.store(out + 19, tl.sum(slow * scaled))
    tl.store(out + 20, tl.sum(m9 * m9))
    tl.store(out + 21, tl.sum(m9 * scaled))
    tl.store(out + 22, tl.sum(scaled * scaled))
    # Tells whether all of v is finite; the sums above tell it of all else.
    tl.store(out + 23, tl.sum(v))


@triton.jit
def combine_blocks(
    table,
    blocks,
    coefficients,
    ok,
    sign,
    COEFFICIENTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    P_TYPE: tl.constexpr,
    G_TYPE: tl.constexpr,
):
    """Write parameters and averages in place, except for tensors that are not `ok`.

    coefficients: `[tensors, COEFFICIENTS]`, float32: weights of parameter, adam, slow_adam, m9 and
    scaled gradient, with the learning rate; the share of the parameter that decays.
    ok: `[tensors]`, int8.
    """
    tensor, row, start, left, full = find_block(table, blocks, WIDTH, BLOCK)
    if tl.load(ok + tensor) != 0:
        offsets = tl.arange(0, BLOCK)
        g = sign * load_block(row, GRADIENT, G_TYPE, start, left, full, offsets)
        p = load_block(row, PARAMETER, P_TYPE, start, left, full, offsets)
        m9 = load_block(row, M9, tl.float32, start, left, full, offsets)
        m99 = load_block(row, M99, tl.float32, start, left, full, offsets)
        v = load_block(row, V, tl.float32, start, left, full, offsets)
        m9, m99, v, inverse = _averages(g, m9, m99, v)

        weight = coefficients + tensor * COEFFICIENTS
        mixed = tl.load(weight + 1) * m9 + tl.load(weight + 2) * m99 + tl.load(weight + 4) * g
        mixed = mixed * inverse + tl.load(weight + 3) * m9 + tl.load(weight) * p
        mixed = tl.where(v == 0.0, 0.0, mixed)
        p = p + mixed - tl.load(weight + 5) * p

        store_block(row, PARAMETER, P_TYPE, start, left, full, offsets, p)
        store_block(row, M9, tl.float32, start, left, full, offsets, m9)
        store_block(row, M99, tl.float32, start, left, full, offsets, m99)
        store_block(row, V, tl.float32, start, left, full, offsets, v)
