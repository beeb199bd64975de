"""Progress bars and lines of text, where there is a terminal or a log to show them."""

from __future__ import annotations

import sys
from functools import cache
from threading import RLock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm  # of the extra "meta": imported where used


def progress_bar(total: int, unit: str, *, show: bool, **options: Any) -> tqdm[Any]:
    """A progress bar on stderr.

    Args:
        total: number of units.
        unit: name of a unit.
        show: whether to show it. Without stderr (`sys.stderr` is None, as in a program that has no
            console) nothing is shown.
        **options: see `tqdm`.
    """
    hidden = not show or sys.stderr is None
    return _bars()(total=total, unit=unit, dynamic_ncols=True, disable=hidden, **options)


def say(text: str) -> None:
    """Print a line on stdout, if there is one, without breaking a progress bar."""
    if sys.stdout is not None:
        _bars().write(text, file=sys.stdout)


@cache
def _bars() -> type[tqdm[Any]]:
    """The bars of tqdm, with a lock of this process alone.

    tqdm's own lock is shared with forked processes: if one is killed while it holds the lock, all
    others wait forever.
    """
    from tqdm import tqdm

    class ProgressBar(tqdm):  # type: ignore[misc]  # tqdm is untyped
        """A bar of this process."""

    ProgressBar.set_lock(RLock())
    return ProgressBar
