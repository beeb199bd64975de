"""Stopping in order: Ctrl-C and SIGTERM wait for the step in hand."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: meta-training has stopped, and its checkpoint is written."""


class TrainingStalled(RuntimeError):
    """Meta-training has stopped because outer steps keep being of no use."""


ECHO = 2.0
"""Seconds in which a second signal is the first one again: a terminal sends Ctrl-C to every process
there, and `torchrun` passes it on to its own once more."""


@contextmanager
def stop_signals() -> Iterator[list[str]]:
    """Collect the names of stop signals instead of dying of them; a second one, later, kills.

    Signals can be caught in the main thread only; elsewhere the list stays empty.
    """
    seen: list[str] = []
    first: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        if seen and time.monotonic() - first[0] > ECHO:
            raise KeyboardInterrupt
        if not seen:
            first.append(time.monotonic())
            seen.append(signal.Signals(number).name)

    previous: dict[int, Any] = {}
    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread
        previous.clear()
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
