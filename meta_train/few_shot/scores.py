"""Scores of few-shot episodes, with their 95% intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

Z = 1.96
"""Standard errors on each side of a 95% confidence interval."""


@dataclass(frozen=True)
class Evaluation:
    """Scores on the query sets of many episodes.

    Attributes:
        metric: "accuracy" or "MSE".
        steps: inner steps after which the query sets were evaluated.
        values: score of each episode, `[steps, episodes]`, on the CPU.
        diverged: number of episodes whose inner training diverged; they stop at that step.
        counts: what `steps` numbers: inner "steps", or the "instance" of a class in a sequence.

    Examples:
        >>> f"{evaluation.mean(5):.3f} +- {evaluation.interval(5):.3f}"
    """

    metric: str
    steps: tuple[int, ...]
    values: Tensor
    diverged: int
    counts: str = "steps"

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return self.values.shape[1]

    def mean(self, steps: int) -> float:
        """Mean over episodes after a number of inner steps."""
        return float(self._scores(steps).mean())

    def interval(self, steps: int) -> float:
        """Half the 95% confidence interval of the mean: 1.96 std / sqrt(episodes)."""
        scores = self._scores(steps)
        if len(scores) < 2:
            return math.nan
        return Z * float(scores.std()) / math.sqrt(len(scores))

    def _scores(self, steps: int) -> Tensor:
        if steps not in self.steps:
            raise ValueError(f"step {steps} was not evaluated, only {self.steps}")
        return self.values[self.steps.index(steps)].double()
