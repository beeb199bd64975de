"""Orderly stops: Ctrl-C and SIGTERM wait until the current outer step is completed."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """Meta-training stopped on Ctrl-C or SIGTERM; a checkpoint was written."""


class TrainingStalled(RuntimeError):
    """Meta-training stopped: too many outer steps in a row were skipped."""


ECHO = 2.0
"""Seconds in which another signal counts as the first one: a terminal sends Ctrl-C to all
processes, and `torchrun` forwards it to its processes again."""


@contextmanager
def stop_signals() -> Iterator[list[str]]:
    """Collect the names of stop signals instead of ending; a second signal raises.

    Signals can only be caught in the main thread; in other threads the list stays empty.

    Raises:
        KeyboardInterrupt: a second signal more than `ECHO` seconds after the first.
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
