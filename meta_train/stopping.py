"""Stopping in order: Ctrl-C and SIGTERM wait for the step in hand."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: meta-training has stopped, and its checkpoint is written."""


@contextmanager
def stop_signals() -> Iterator[list[str]]:
    """Collect the names of stop signals instead of dying of them; a second one kills.

    Signals can be caught in the main thread only; elsewhere the list stays empty.
    """
    seen: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
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
