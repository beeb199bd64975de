"""Blocks of whole tensors: large ones in pieces, small ones joined; all of them flat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

JOINED = 1 << 16
"""Elements of joined tensors; thirteen arrays of this size are 3.25 MiB."""

PIECE = 23 << 12
"""Elements of a piece of one tensor; nine arrays of this size are 3.25 MiB, too."""

PER_THREAD = 1 << 15
"""Elements of joined tensors for each thread, if that is more: torch gives a thread no fewer."""


@dataclass(slots=True, eq=False)
class TensorBlock:
    """A block: one piece of a large tensor, or several whole tensors.

    Attributes:
        numbers: of the tensors in the step.
        counts: elements of each piece; several are in ascending order.
        rows: for each kind of tensor, such as gradients, the pieces, flat.
    """

    numbers: list[int]
    counts: list[int]
    rows: list[list[Tensor]]

    @property
    def is_joined(self) -> bool:
        """Whether it has several pieces."""
        return len(self.counts) > 1

    def read(self, copies: Sequence[Tensor]) -> list[Tensor]:
        """Each kind as `[sum of counts]`: one piece is itself, several are joined in `copies`."""
        if not self.is_joined:
            return [row[0] for row in self.rows]
        for row, target in zip(self.rows, copies, strict=True):
            torch.cat(row, out=target)
        return list(copies)

    def write(self, values: Sequence[Tensor]) -> None:
        """Copy joined values, in the order of `read`, back to the pieces; not the first kind."""
        if self.is_joined:
            for row, joined in zip(self.rows[1:], values[1:], strict=True):
                torch._foreach_copy_(row, joined.split(self.counts))

    def runs(self, joined: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Find runs of pieces of equal size: which pieces they are, and a view of them.

        Args:
            joined: `[k, sum of counts]`; a view is `[k, pieces, count]`.
        """
        piece = place = 0
        for count, alike in groupby(self.counts):
            times = sum(1 for _ in alike)
            end = place + count * times
            view = joined[:, place:end].view(len(joined), times, count)
            yield slice(piece, piece + times), view
            piece, place = piece + times, end

    def repeat(self, columns: Tensor, out: Tensor) -> Tensor:
        """Repeat the column of each piece, `[k, pieces]`, for its elements: `out`, `[k, count]`."""
        for pieces, view in self.runs(out):
            view.copy_(columns[:, pieces, None])
        return out


def cut_and_join(tensors: Sequence[Sequence[Tensor]]) -> Iterator[TensorBlock]:
    """Cut large tensors into pieces, and join small ones, the smallest first.

    Args:
        tensors: for each of n, tensors of several kinds: contiguous, of equal size. Empty ones are
            in no block.
    """
    limit = max(JOINED, PER_THREAD * torch.get_num_threads())
    counts = [row[0].numel() for row in tensors]
    numbers: list[int] = []
    total = 0
    # Pieces of equal size lie side by side, so that one call multiplies them all.
    for number in sorted(range(len(counts)), key=counts.__getitem__):
        count = counts[number]
        if numbers and total + count > limit:
            yield _join(tensors, numbers)
            numbers, total = [], 0
        if count > limit:
            yield from _cut(number, tensors[number], count, limit * PIECE // JOINED)
        elif count:
            numbers.append(number)
            total += count
    if numbers:
        yield _join(tensors, numbers)


def _cut(number: int, row: Sequence[Tensor], count: int, limit: int) -> Iterator[TensorBlock]:
    flat = [tensor.view(-1) for tensor in row]
    for start in range(0, count, limit):
        pieces = [[tensor[start : start + limit]] for tensor in flat]
        yield TensorBlock([number], [min(limit, count - start)], pieces)


def _join(tensors: Sequence[Sequence[Tensor]], numbers: list[int]) -> TensorBlock:
    flat = [[tensor.view(-1) for tensor in tensors[number]] for number in numbers]
    counts = [row[0].numel() for row in flat]
    return TensorBlock(numbers, counts, [list(column) for column in zip(*flat, strict=True)])
