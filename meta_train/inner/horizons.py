"""How long inner training goes on: horizons drawn at random, longer ones later."""

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
        stages: meta-training is divided evenly into these; each holds lengths, of which 0 judges
            the start itself (Chen et al. 2020,
            arXiv 2010.09089: a curriculum of growing horizons).
        draw: "listed" draws one of a stage's lengths; "log-uniform" draws between its smallest and
            its largest (Metz et al. 2022, arXiv 2211.09760).
    """

    stages: Sequence[Sequence[int]]
    draw: str = "listed"

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: names the value.
        """
        if self.draw not in DRAWS:
            raise ValueError(f"horizon_draw must be one of {', '.join(DRAWS)}, got {self.draw!r}")
        least = 0 if self.draw == "listed" else 1  # zero has no logarithm
        if not self.stages or any(not stage or min(stage) < least for stage in self.stages):
            must = "not be negative" if least == 0 else "be positive"
            raise ValueError(f"horizons must {must} and not be empty, got {self.stages}")

    def sample(self, generator: torch.Generator, progress: float) -> int:
        """Draw a length.

        Args:
            generator: of the draw.
            progress: the share of meta-training that is over, in [0, 1].
        """
        stage = self.stages[min(int(progress * len(self.stages)), len(self.stages) - 1)]
        if self.draw == "listed":
            return stage[int(torch.randint(len(stage), (), generator=generator))]
        low, high = math.log(min(stage)), math.log(max(stage))
        drawn = low + (high - low) * float(torch.rand((), generator=generator))
        return round(math.exp(drawn))

    def shortest(self) -> int:
        """The shortest length of any stage."""
        return min(min(stage) for stage in self.stages)

    def longest(self) -> int:
        """The longest length of any stage."""
        return max(max(stage) for stage in self.stages)
