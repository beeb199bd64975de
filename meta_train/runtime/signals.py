"""Orderly stops: on Ctrl-C and SIGTERM the outer step in hand is completed, other work ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class _CanGoOn(Exception):
    """A stop after which training can go on, if there is a folder.

    Args:
        what: what happened, and when.
        how: how to go on; empty if nothing was saved.
    """

    def __init__(self, what: str, how: str = "") -> None:
        super().__init__(f"{what}; {how}" if how else what)
        self.what = what


class Interrupted(_CanGoOn):
    """Meta-training stopped on Ctrl-C or SIGTERM; with a folder, a checkpoint was written."""


class TrainingStalled(_CanGoOn, RuntimeError):
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


@contextmanager
def sigterm_like_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, unless it has a handler or this is no main thread."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
