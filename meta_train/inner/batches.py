"""Streams of batches for several inner runs; a stream can be rewound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_train.inner.state import cast, stack
from meta_train.tasks.base import Batch
from meta_train.tasks.data.in_memory import RandomRows

__all__ = ["BatchStream", "InnerData", "Mark", "cast"]

Mark: TypeAlias = list[Tensor]
"""A position in a stream: the state of each generator."""


class BatchStream:
    """Draws one batch for each run and stacks them.

    Args:
        draws: one function for each run; draws the run's next batch from a generator.
        sources: one generator for each run.
        copies: how often each run's batch is repeated; batches are `[copies * runs, ...]`.
        dtype: type of floating-point tensors; None keeps theirs.
    """

    def __init__(
        self,
        draws: Sequence[Callable[[torch.Generator], Batch]],
        sources: Sequence[torch.Generator],
        copies: int = 1,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.draws = draws
        self.sources = sources
        self.copies = copies
        self.dtype = dtype
        self._rows = _rows_of_one_dataset(draws)
        self._among = _same_length([draw.among for draw in self._rows or []])

    def next(self) -> Batch:
        """Draw the next batch."""
        if self._rows is not None:
            # One gather takes the rows of all runs.
            drawn = zip(self._rows, self.sources, strict=True)
            if self._among is None:
                rows = torch.stack([draw.row_numbers(source) for draw, source in drawn])
            else:
                places = torch.stack([draw.places(source) for draw, source in drawn])
                rows = self._among.gather(1, places)
            rows = rows.repeat(self.copies, 1)
            return cast(self._rows[0].dataset.take(rows), self.dtype)
        batches = [draw(source) for draw, source in zip(self.draws, self.sources, strict=True)]
        batch = cast(stack(batches), self.dtype)
        if self.copies == 1:
            return batch
        return pytree.tree_map(lambda t: t.repeat(self.copies, *([1] * (t.dim() - 1))), batch)

    def mark(self) -> Mark:
        """Return the current position, a few kilobytes for each run."""
        return [source.get_state() for source in self.sources]

    def rewind(self, mark: Mark) -> None:
        """Go back to a position that `mark` returned."""
        for source, state in zip(self.sources, mark, strict=True):
            source.set_state(state)


@dataclass(frozen=True)
class InnerData:
    """The data of inner training in one outer step.

    Attributes:
        training: batches to train on.
        outer_batches: batches that steps are evaluated on; None evaluates each step on the next
            training batch.
        seed: seeds the random numbers of the loss itself (dropout).
        last_only: evaluate the last step alone. Needs `outer_batches`; for objectives that read
            only the last loss.
    """

    training: BatchStream
    outer_batches: BatchStream | None
    seed: int
    last_only: bool = False

    def streams(self) -> list[BatchStream]:
        """Return the training stream and, if there are outer batches, their stream."""
        return (
            [self.training] if self.outer_batches is None else [self.training, self.outer_batches]
        )

    def mark(self) -> list[Mark]:
        """Return the current position of every stream."""
        return [stream.mark() for stream in self.streams()]

    def rewind(self, marks: list[Mark]) -> None:
        """Go back to positions that `mark` returned."""
        for stream, mark in zip(self.streams(), marks, strict=True):
            stream.rewind(mark)


def _rows_of_one_dataset(
    draws: Sequence[Callable[[torch.Generator], Batch]],
) -> list[RandomRows] | None:
    """The draws, if all draw batches of one size from one data set; otherwise None."""
    rows = [draw for draw in draws if isinstance(draw, RandomRows)]
    alike = {(id(draw.dataset), draw.batch_size) for draw in rows}
    return rows if len(rows) == len(draws) and len(alike) == 1 else None


def _same_length(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """Vectors stacked, `[k, n]`; None if their lengths differ, or one is None."""
    given = [tensor for tensor in tensors if tensor is not None]
    if len({len(tensor) for tensor in given}) != 1 or len(given) < len(tensors):
        return None
    return torch.stack(given)
