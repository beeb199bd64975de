"""Decides which steps to observe."""

from __future__ import annotations

import time

SHARE = 0.01
"""Share of the training's time that observing may take."""

LEAST_APART = 10
"""Steps between observations at first; twice as many after 1000 of them, and so on."""


class ObservationInterval:
    """Observes every n-th step, or as often as a hundredth of the training's time allows.

    The second keeps a monitor cheap for models of any size: an observation of a tiny network takes
    as long as ten of its steps, one of a large network a small part of a step.

    Args:
        every: n; None takes a hundredth of the time.
    """

    def __init__(self, every: int | None) -> None:
        self.every = every
        self._began = time.perf_counter()
        self._spent = 0.0  # seconds
        self._observed = 0
        self._next = 0

    def due(self, step: int) -> bool:
        """Whether to observe a step, counted from 0."""
        if self.every is not None:
            return step % self.every == 0
        return step >= self._next and self._spent <= SHARE * (time.perf_counter() - self._began)

    def observed(self, step: int, seconds: float) -> None:
        """Note how long the observation of a step took."""
        self._spent += seconds
        self._observed += 1
        self._next = step + LEAST_APART * (1 + self._observed // 1000)
