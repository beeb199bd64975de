"""The elementwise passes of `orthogonal-momentum`: sums and look-ahead, then the step.

Between the two, torch orthogonalises the look-ahead of matrices. The formulas are those of
`learned_opt.rules.orthogonal_momentum`, and tests hold them to it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from learned_opt.backends.triton.kernels.blocks import (
    find_block,
    load_block,
    not_finite,
    store_block,
)

GRADIENT: tl.constexpr = tl.constexpr(0)
PARAMETER: tl.constexpr = tl.constexpr(1)
MOMENTUM: tl.constexpr = tl.constexpr(2)
AVERAGE: tl.constexpr = tl.constexpr(3)
V: tl.constexpr = tl.constexpr(4)
"""Columns of addresses in the table."""

DIRECTION: tl.constexpr = V
"""Of a matrix, in place of v: scratch memory for its look-ahead and its direction."""


@triton.jit
def _power_of_two(largest):
    """The power of two that brings a number to between 1 and 2, by its bits; finite for all."""
    exponent = largest.to(tl.int32, bitcast=True) & 0x7F800000
    return tl.maximum(0x7F000000 - exponent, 0x00800000).to(tl.float32, bitcast=True)


@triton.jit
def _square(value, scale):
    """The sum of squares over a block, as float64: it may leave the range of float32."""
    value = value * scale
    unit = 1.0 / scale.to(tl.float64)
    return tl.sum(value * value).to(tl.float64) * unit * unit


@triton.jit
def _adam(m, v, number):
    """Adam's direction from its two moments; 0 where there was no gradient yet."""
    root = tl.sqrt_rn(v) / tl.load(number + 1)
    return tl.where(root == 0.0, 0.0, m / tl.load(number) / tl.where(root == 0.0, 1.0, root))


@triton.jit
def _with_point(average, p, weight):
    """The average with the parameter in it; exactly the parameter where the weight is 1."""
    near = average + weight * (p - average)
    return tl.where(weight < 0.5, near, p - (p - average) * (1.0 - weight))


@triton.jit
def measure_blocks(
    table,
    blocks,
    numbers,
    partial,
    decays,
    sign,
    IS_MATRIX: tl.constexpr,
    NUMBERS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    P_TYPE: tl.constexpr,
    G_TYPE: tl.constexpr,
):
    """Sums over each block; of matrices, write the look-ahead into the scratch memory.

    Args:
        table: see `TensorTable`.
        blocks: see `TensorTable`.
        numbers: `[tensors, NUMBERS]`, float32, of vectors: bias correction of m, root of that of v;
            then, of all tensors, the weight of the parameter in the average.
        partial: `[blocks, COLUMNS]`, float64: squares of gradient, parameter, look-ahead (of
            vectors: m), direction (of vectors only), how many new numbers are not finite,
            squares of the old m, and of parameter minus new average (of matrices only).
        decays: `[4]`, float32: beta and 1 - beta of m and of v.
        sign: -1 to maximise, else 1.
        IS_MATRIX: whether the tensors are matrices.
        NUMBERS: columns of `numbers`.
        COLUMNS: of `partial`.
        WIDTH: see `TensorTable`.
        BLOCK: elements of a block.
        P_TYPE: dtype of parameters.
        G_TYPE: dtype of gradients.
    """
    tensor, row, start, left, full = find_block(table, blocks, WIDTH, BLOCK)
    offsets = tl.arange(0, BLOCK)
    number = numbers + tensor * NUMBERS
    g = sign * load_block(row, GRADIENT, G_TYPE, start, left, full, offsets)
    p = load_block(row, PARAMETER, P_TYPE, start, left, full, offsets)
    m = load_block(row, MOMENTUM, tl.float32, start, left, full, offsets)
    average = load_block(row, AVERAGE, tl.float32, start, left, full, offsets)
    out = partial + tl.program_id(0).to(tl.int64) * COLUMNS

    scale = _power_of_two(tl.max(tl.maximum(tl.abs(g), tl.abs(m))))
    tl.store(out + 5, _square(m, scale))
    m = tl.load(decays) * m + tl.load(decays + 1) * g
    average = _with_point(average, p, tl.load(number + 2))
    bad = not_finite(average)
    tl.store(out + 0, _square(g, scale))
    tl.store(out + 1, _square(p, _power_of_two(tl.max(tl.abs(p)))))
    if IS_MATRIX:
        ahead = tl.load(decays) * m + tl.load(decays + 1) * g
        store_block(row, DIRECTION, tl.float32, start, left, full, offsets, ahead)
        tl.store(out + 2, _square(ahead, scale))
        way = p - average
        tl.store(out + 6, _square(way, _power_of_two(tl.max(tl.abs(way)))))
    else:
        v = load_block(row, V, tl.float32, start, left, full, offsets)
        v = tl.load(decays + 2) * v + tl.load(decays + 3) * g * g
        direction = _adam(m, v, number)
        tl.store(out + 2, _square(m, scale))
        tl.store(out + 3, tl.sum(direction * direction).to(tl.float64))
        bad += not_finite(v)
    tl.store(out + 4, tl.sum(tl.where(offsets < left, bad, 0)).to(tl.float64))


@triton.jit
def combine_blocks(
    table,
    blocks,
    numbers,
    ok,
    decays,
    sign,
    IS_MATRIX: tl.constexpr,
    NUMBERS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    P_TYPE: tl.constexpr,
    G_TYPE: tl.constexpr,
):
    """Write parameters, momenta and averages in place, except for tensors that are not `ok`.

    As in `measure_blocks`, and:

    Args:
        table: of matrices, the scratch memory holds the orthogonal direction now.
        blocks: see `TensorTable`.
        numbers: as before, then what the direction is multiplied with, and the share of the
            parameter that decays.
        ok: `[tensors]`, int8.
        decays: as before.
        sign: as before.
        IS_MATRIX: as before.
        NUMBERS: as before.
        WIDTH: as before.
        BLOCK: as before.
        P_TYPE: as before.
        G_TYPE: as before.
    """
    tensor, row, start, left, full = find_block(table, blocks, WIDTH, BLOCK)
    if tl.load(ok + tensor) != 0:
        offsets = tl.arange(0, BLOCK)
        number = numbers + tensor * NUMBERS
        g = sign * load_block(row, GRADIENT, G_TYPE, start, left, full, offsets)
        p = load_block(row, PARAMETER, P_TYPE, start, left, full, offsets)
        m = load_block(row, MOMENTUM, tl.float32, start, left, full, offsets)
        average = load_block(row, AVERAGE, tl.float32, start, left, full, offsets)
        m = tl.load(decays) * m + tl.load(decays + 1) * g
        average = _with_point(average, p, tl.load(number + 2))
        if IS_MATRIX:
            direction = load_block(row, DIRECTION, tl.float32, start, left, full, offsets)
        else:
            v = load_block(row, V, tl.float32, start, left, full, offsets)
            v = tl.load(decays + 2) * v + tl.load(decays + 3) * g * g
            direction = _adam(m, v, number)
            store_block(row, V, tl.float32, start, left, full, offsets, v)
        p = p + tl.load(number + 3) * direction - tl.load(number + 4) * p
        store_block(row, PARAMETER, P_TYPE, start, left, full, offsets, p)
        store_block(row, MOMENTUM, tl.float32, start, left, full, offsets, m)
        store_block(row, AVERAGE, tl.float32, start, left, full, offsets, average)
