"""Reads and writes one block of a tensor that a table of addresses names.

A kernel runs over all tensors in one launch: program k steps block k of the list of blocks. A row
of the table holds, as int64: number of elements, whether all addresses are multiples of 16 bytes,
the number of the tensor's first block, and the addresses. See `TensorTable`.
"""

from __future__ import annotations

import triton
import triton.language as tl

SIZE: tl.constexpr = tl.constexpr(0)
ALIGNED: tl.constexpr = tl.constexpr(1)
FIRST_BLOCK: tl.constexpr = tl.constexpr(2)
ADDRESSES: tl.constexpr = tl.constexpr(3)


@triton.jit
def find_block(table, blocks, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """The tensor's number, its row, where the block begins, the elements left, and if it is full.

    A full block has all its elements, and addresses that allow vector loads.
    """
    entry = tl.load(blocks + tl.program_id(0))
    tensor = entry >> 32
    start = (entry & 0xFFFFFFFF) * BLOCK
    row = table + tensor * WIDTH
    left = tl.load(row + SIZE) - start
    full = (tl.load(row + ALIGNED) != 0) & (left >= BLOCK)
    return tensor, row, start, left, full


@triton.jit
def load_block(row, COLUMN: tl.constexpr, DTYPE: tl.constexpr, start, left, full, offsets):
    """The elements of a block as float32; 0 past the tensor's end."""
    address = tl.load(row + ADDRESSES + COLUMN)
    # The compiler cannot know where an address from a table points; without the hint it would load
    # element by element.
    if full:
        pointer = tl.multiple_of(address.to(tl.pointer_type(DTYPE)), 16) + start
        value = tl.load(pointer + offsets)
    else:
        pointer = address.to(tl.pointer_type(DTYPE)) + start
        value = tl.load(pointer + offsets, mask=offsets < left, other=0.0)
    return value.to(tl.float32)


@triton.jit
def store_block(row, COLUMN: tl.constexpr, DTYPE: tl.constexpr, start, left, full, offsets, value):
    """Write a block, rounded to the tensor's dtype."""
    address = tl.load(row + ADDRESSES + COLUMN)
    rounded = value.to(DTYPE)
    if full:
        pointer = tl.multiple_of(address.to(tl.pointer_type(DTYPE)), 16) + start
        tl.store(pointer + offsets, rounded)
    else:
        pointer = address.to(tl.pointer_type(DTYPE)) + start
        tl.store(pointer + offsets, rounded, mask=offsets < left)


@triton.jit
def not_finite(value):
    """1 where a number is infinite or NaN, else 0."""
    return tl.where(tl.abs(value) < float("inf"), 0, 1)


@triton.jit
def add_blocks(
    table, partial, total, count, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr
):
    """Add up the sums of a tensor's blocks, always in the same order.

    partial: `[blocks, COLUMNS]`. total: `[tensors, COLUMNS]`, float64. count: blocks.
    """
    tensor = tl.program_id(0).to(tl.int64)
    first = tl.load(table + tensor * WIDTH + FIRST_BLOCK)
    last = count.to(tl.int64)
    if tensor + 1 < tl.num_programs(0):
        last = tl.load(table + (tensor + 1) * WIDTH + FIRST_BLOCK)
    columns = tl.arange(0, COLUMNS)
    rows = tl.arange(0, ROWS)
    total_sum = tl.zeros((COLUMNS,), dtype=tl.float64)
    for begin in range(first, last, ROWS):
        inside = (begin + rows < last)[:, None]
        places = partial + (begin + rows)[:, None] * COLUMNS + columns[None, :]
        part = tl.load(places, mask=inside, other=0.0).to(tl.float64)
        total_sum += tl.sum(part, axis=0)
    tl.store(total + tensor * COLUMNS + columns, total_sum)
