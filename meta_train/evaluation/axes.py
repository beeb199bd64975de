"""How pictures of losses look, whoever draws them."""

from __future__ import annotations

from matplotlib import ticker
from matplotlib.axes import Axes

READABLE = 3e3
"""Ratio of limits up to which ticks are labelled in plain numbers, and not in powers of 10."""


def show_losses(
    axis: Axes, low: float | None = None, high: float | None = None, *, floor: float = 0.0
) -> None:
    """Give an axis of losses, whose curves are drawn, a logarithmic scale that reads well.

    Args:
        axis: its vertical one is meant.
        low: its lower limit; by default what the curves need.
        high: its upper limit.
        floor: the lower limit is at least this, whatever the curves need.
    """
    axis.set_yscale("log")  # before limits are read, which until then may be below 0
    axis.set_ylim(low, high)
    axis.set_ylim(bottom=max(floor, axis.get_ylim()[0]))
    axis.spines[["top", "right"]].set_visible(False)
    bottom, top = axis.get_ylim()
    if top / bottom > READABLE:
        return
    few = top / bottom < 10  # fewer than two powers of 10 may be in sight
    axis.yaxis.set_major_locator(
        ticker.MaxNLocator(5) if few else ticker.LogLocator(subs=(1, 2, 5))
    )
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())
