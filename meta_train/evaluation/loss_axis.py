"""The loss axis of all pictures."""

from __future__ import annotations

from matplotlib import ticker
from matplotlib.axes import Axes

READABLE = 3e3
"""Largest ratio of the limits for tick labels in plain numbers; above it, powers of 10."""


def show_losses(
    axis: Axes, low: float | None = None, high: float | None = None, *, floor: float = 0.0
) -> None:
    """Give the vertical axis a logarithmic scale with readable ticks. Draw the curves first.

    Args:
        axis: the axes of the picture.
        low: lower limit; by default the curves decide.
        high: upper limit; by default the curves decide.
        floor: the lower limit is at least this.
    """
    axis.set_yscale("log")  # first: a linear axis may have a negative limit
    axis.set_ylim(low, high)
    axis.set_ylim(bottom=max(floor, axis.get_ylim()[0]))
    axis.spines[["top", "right"]].set_visible(False)
    bottom, top = axis.get_ylim()
    if top / bottom > READABLE:
        return
    few = top / bottom < 10  # at most one power of 10 is visible
    axis.yaxis.set_major_locator(
        ticker.MaxNLocator(5) if few else ticker.LogLocator(subs=(1, 2, 5))
    )
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())
