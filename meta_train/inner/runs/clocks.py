"""The progress of several inner runs: their problems, the steps taken, and their lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meta_train.inner.runs.restart_buffer import Kept


class RunClocks:
    """Counts of several runs; every list has one entry for each run.

    Args:
        indices: indices of the runs among the runs of all processes.
        episode: the first episode of all of them.

    Attributes:
        lengths: planned inner steps; 0 until they are drawn.
        ages: inner steps that a run has taken since it began.
        offsets: inner steps before that, in the run that it continues.
        episodes: how often a run has been replaced; whole runs count outer steps.
        origins: run and episode that the run's problem was drawn for.

    Examples:
        >>> clocks = RunClocks([0, 1], episode=0)
        >>> clocks.lengths = [2, 4]
        >>> clocks.advance(2)
        >>> [clocks.over(run) for run in (0, 1)]
        [True, False]
        >>> clocks.begin(0, episode=1)
        >>> clocks.ages, clocks.origins
        ([0, 2], [(0, 1), (1, 0)])
    """

    def __init__(self, indices: Sequence[int], episode: int) -> None:
        self._indices = list(indices)
        self.lengths = [0] * len(indices)
        self.ages = [0] * len(indices)
        self.offsets = [0] * len(indices)
        self.episodes = [episode] * len(indices)
        self.origins = [(index, episode) for index in indices]

    def begin(self, run: int, episode: int, earlier: Kept | None = None) -> None:
        """Begin an episode of a run, with a problem of its own or at an earlier end."""
        self.episodes[run], self.ages[run], self.offsets[run] = episode, 0, 0
        self.origins[run] = self._indices[run], episode
        if earlier is not None:
            self.origins[run], self.offsets[run] = earlier.origin, earlier.age

    def advance(self, steps: int) -> None:
        """Count inner steps that all runs have taken."""
        self.ages = [age + steps for age in self.ages]

    def finish(self) -> None:
        """Count all planned steps of all runs as taken."""
        self.ages = list(self.lengths)

    def over(self, run: int) -> bool:
        """Whether a run has reached its length."""
        return self.ages[run] >= self.lengths[run]

    def taken(self, run: int) -> int:
        """Inner steps that were taken on a run's problem, those before an earlier end included."""
        return self.offsets[run] + self.ages[run]

    def planned(self, window: int) -> list[int]:
        """Inner steps on each run's problem in all, whole windows of so many steps."""
        return [
            offset + -(-length // window) * window
            for offset, length in zip(self.offsets, self.lengths, strict=True)
        ]

    def state_dict(self, run: int) -> dict[str, Any]:
        """The counts of a run, JSON-able."""
        return {
            "episode": self.episodes[run],
            "origin": list(self.origins[run]),
            "age": self.ages[run],
            "offset": self.offsets[run],
            "length": self.lengths[run],
        }

    def load_state_dict(self, run: int, facts: Mapping[str, Any]) -> None:
        """Restore the counts of a run that `state_dict` returned."""
        self.episodes[run], self.ages[run] = facts["episode"], facts["age"]
        self.offsets[run], self.lengths[run] = facts["offset"], facts["length"]
        self.origins[run] = (facts["origin"][0], facts["origin"][1])
