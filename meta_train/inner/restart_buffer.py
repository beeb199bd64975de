"""The restart buffer: where earlier inner runs ended, for new ones to go on from.

Long training is seen in short runs (ELO 2026, arXiv 2607.06772).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from meta_train.inner.state import InnerState

KEPT = 4
"""Ends of each run that are kept: the newest ones."""


@dataclass(frozen=True)
class Kept:
    """The end of a run.

    Attributes:
        origin: which problem: the run and the episode that it was drawn for.
        age: inner steps taken.
        inner: the state, `[1, ...]`.
    """

    origin: tuple[int, int]
    age: int
    inner: InnerState


class RestartBuffer:
    """The newest ends of each of several runs.

    Args:
        runs: how many.

    Attributes:
        ends: by run, oldest first.
    """

    def __init__(self, runs: int) -> None:
        self.ends: list[list[Kept]] = [[] for _ in range(runs)]

    def keep(self, run: int, end: Kept) -> None:
        """Add an end; the oldest one may have to go."""
        self.ends[run] = [*self.ends[run], end][-KEPT:]

    def draw(self, run: int, probability: float, source: torch.Generator) -> Kept | None:
        """With a probability one of the run's ends, all equally likely; else None."""
        ends = self.ends[run]
        if not ends or float(torch.rand((), generator=source)) >= probability:
            return None
        return ends[int(torch.randint(len(ends), (), generator=source))]

    def save(self, run: int) -> tuple[dict[str, Tensor], list[list[int]]]:
        """A run's ends as tensors and JSON-able facts."""
        tensors = {
            f"{slot}/{name}": value
            for slot, end in enumerate(self.ends[run])
            for name, value in end.inner.named_tensors()
        }
        return tensors, [[*end.origin, end.age] for end in self.ends[run]]

    def load(
        self,
        run: int,
        tensors: dict[str, Tensor],
        facts: Sequence[Sequence[Any]],
        like: InnerState,
    ) -> None:
        """Take over what `save` gave; `like` has the structure of its states."""
        self.ends[run] = []
        for slot, (index, episode, age) in enumerate(facts):
            prefix = f"{slot}/"
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            self.ends[run].append(Kept((index, episode), age, like.with_tensors(own)))
