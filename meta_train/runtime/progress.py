"""Progress bars and lines of text, where there is a terminal or a log to show them."""

from __future__ import annotations

import sys
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
    from tqdm import tqdm

    hidden = not show or sys.stderr is None
    return tqdm(total=total, unit=unit, dynamic_ncols=True, disable=hidden, **options)


def say(text: str) -> None:
    """Print a line on stdout, if there is one, without breaking a progress bar."""
    from tqdm import tqdm

    if sys.stdout is not None:
        tqdm.write(text, file=sys.stdout)
