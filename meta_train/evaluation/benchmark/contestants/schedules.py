"""Schedules of peers: factors on the learning rate by the number of steps done."""

from __future__ import annotations

import math
from collections.abc import Callable


def warm_cosine(
    steps: int, *, warm_up: float, constant: float = 0.0, last: float = 0.0
) -> Callable[[int], float]:
    """A linear warm-up, a constant part, and a cosine.

    Args:
        steps: planned steps; after them the factor stays.
        warm_up: share of the steps over which it grows to 1.
        constant: share of the steps after which the cosine begins.
        last: the factor at the end.
    """

    def factor(done: int) -> float:
        if done < warm_up * steps:
            return (done + 1) / (warm_up * steps + 1)
        first = max(constant, warm_up)
        share = max(0.0, min(done / steps, 1.0) - first) / max(1 - first, 1e-9)
        return last + (1 - last) * (1 + math.cos(math.pi * share)) / 2

    return factor
