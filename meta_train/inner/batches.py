"""The batches of several inner runs, drawn as they are needed, and again from any point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_train.inner.state import stack
from meta_train.tasks.base import Batch

Mark: TypeAlias = list[Tensor]
"""Where a stream stands."""


class BatchStream:
    """One batch of every run after another, stacked over runs.

    Args:
        draws: gives a run's next batch, one for each run.
        sources: what each run draws from.
        copies: each run's batch is given so many times, `[copies * runs, ...]`.
        dtype: floating-point tensors are cast to it.
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

    def next(self) -> Batch:
        """Draw the next batch."""
        batches = [draw(source) for draw, source in zip(self.draws, self.sources, strict=True)]
        batch = cast(stack(batches), self.dtype)
        if self.copies == 1:
            return batch
        return pytree.tree_map(lambda t: t.repeat(self.copies, *([1] * (t.dim() - 1))), batch)

    def mark(self) -> Mark:
        """Remember the place; a few kilobytes a run."""
        return [source.get_state() for source in self.sources]

    def rewind(self, mark: Mark) -> None:
        """Go back to a place that `mark` remembered."""
        for source, state in zip(self.sources, mark, strict=True):
            source.set_state(state)


def cast(tree: Batch, dtype: torch.dtype | None) -> Batch:
    """The same tree with its floating-point tensors in `dtype`; None leaves it alone."""
    if dtype is None:
        return tree
    return pytree.tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, tree)
