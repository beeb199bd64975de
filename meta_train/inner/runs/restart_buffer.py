"""Keeps the ends of inner runs, from which new runs may continue.

So short runs see long training (ELO 2026, arXiv 2607.06772).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from meta_train.inner.state import InnerState

KEPT = 4
"""Number of ends that are kept for each run: the newest ones."""


@dataclass(frozen=True)
class Kept:
    """The end of a run.

    Attributes:
        origin: run and episode that the problem was drawn for.
        age: inner steps taken.
        inner: the state, `[1, ...]`.
    """

    origin: tuple[int, int]
    age: int
    inner: InnerState


class RestartBuffer:
    """The newest ends of each of several runs.

    Args:
        runs: number of runs.

    Attributes:
        ends: ends by run, oldest first.
    """

    def __init__(self, runs: int) -> None:
        self.ends: list[list[Kept]] = [[] for _ in range(runs)]

    def keep(self, run: int, end: Kept) -> None:
        """Add an end; drop the oldest if there are more than `KEPT`."""
        self.ends[run] = [*self.ends[run], end][-KEPT:]

    def draw(self, run: int, probability: float, source: torch.Generator) -> Kept | None:
        """With the given probability return one of the run's ends, each equally likely."""
        ends = self.ends[run]
        if not ends or float(torch.rand((), generator=source, dtype=torch.float32)) >= probability:
            return None
        return ends[int(torch.randint(len(ends), (), generator=source))]

    def state_dict(self, run: int) -> tuple[dict[str, Tensor], list[list[int]]]:
        """Return a run's ends as tensors and JSON-able facts."""
        tensors = {
            f"{slot}/{name}": value
            for slot, end in enumerate(self.ends[run])
            for name, value in end.inner.named_tensors()
        }
        return tensors, [[*end.origin, end.age] for end in self.ends[run]]

    def load_state_dict(
        self,
        run: int,
        tensors: dict[str, Tensor],
        facts: Sequence[Sequence[Any]],
        like: InnerState,
    ) -> None:
        """Load a run's `state_dict`; `like` has the structure of its states."""
        self.ends[run] = []
        for slot, (index, episode, age) in enumerate(facts):
            prefix = f"{slot}/"
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            self.ends[run].append(Kept((index, episode), age, like.with_tensors(own)))
