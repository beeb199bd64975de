"""Cutting tensors into pieces of bounded size without copying, whatever their strides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def slice_up(shape: Sequence[int], limit: int) -> Iterator[tuple[int | slice, ...]]:
    """Index tuples that cut a tensor of `shape` into pieces of at most `limit` elements.

    Runs of whole rows where a row fits, else each row cut in turn, so that every piece is a view.
    A tensor that fits, a 0-dim and an empty one give one piece.
    """
    elements = 1
    for size in shape:
        elements *= size
    if elements <= limit or not shape:
        yield ()
        return
    row = elements // shape[0]
    if row > limit:
        for index in range(shape[0]):
            for rest in slice_up(shape[1:], limit):
                yield (index, *rest)
    else:
        rows = limit // row
        for start in range(0, shape[0], rows):
            yield (slice(start, start + rows),)


def pack(items: Sequence[T], sizes: Sequence[int], limit: int) -> Iterator[list[T]]:
    """Consecutive batches of items whose sizes add up to at most `limit` (or of one item)."""
    batch: list[T] = []
    total = 0
    for item, size in zip(items, sizes, strict=True):
        if batch and total + size > limit:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch
