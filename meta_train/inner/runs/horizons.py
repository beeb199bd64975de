"""Lengths of inner runs: drawn at random, with longer ones later in meta-training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

DRAWS = ("listed", "log-uniform")


@dataclass(frozen=True)
class Horizons:
    """Lengths of inner runs, in steps.

    Attributes:
        stages: lists of lengths; meta-training is divided evenly among the stages (a curriculum of
            growing horizons, Chen et al. 2020, arXiv 2010.09089). Length 0 evaluates the
            initialisation itself.
        draw: "listed" draws one of a stage's lengths; "log-uniform" draws between its smallest and
            its largest (Metz et al. 2022, arXiv 2211.09760).

    Raises:
        ValueError: an unknown draw, or a length out of range.
    """

    stages: Sequence[Sequence[int]]
    draw: str = "listed"

    def __post_init__(self) -> None:
        """Check the values."""
        if self.draw not in DRAWS:
            raise ValueError(f"horizon_draw must be one of {', '.join(DRAWS)}, got {self.draw!r}")
        least = 0 if self.draw == "listed" else 1  # 0 has no logarithm
        for stage in self.stages or [()]:
            if not stage:
                raise ValueError("horizons must not be empty")
            if min(stage) < least:
                raise ValueError(f"horizons must be at least {least}, got {list(stage)}")

    def sample(self, generator: torch.Generator, progress: float) -> int:
        """Draw a length.

        Args:
            generator: source of randomness.
            progress: fraction of meta-training that is done, in [0, 1].
        """
        stage = self.stages[min(int(progress * len(self.stages)), len(self.stages) - 1)]
        if self.draw == "listed":
            return stage[int(torch.randint(len(stage), (), generator=generator))]
        low, high = math.log(min(stage)), math.log(max(stage))
        drawn = low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float32))
        return round(math.exp(drawn))

    def shortest(self) -> int:
        """Return the shortest length of any stage."""
        return min(min(stage) for stage in self.stages)

    def longest(self) -> int:
        """Return the longest length of any stage."""
        return max(max(stage) for stage in self.stages)
