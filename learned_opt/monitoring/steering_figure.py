"""Draws how a network bends the schedule of its base, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from learned_opt.monitoring.figures import import_matplotlib
from learned_opt.monitoring.observation import TensorObservation, TensorSteering

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LINES = 10
"""Tensors that the picture shows: the largest, since more colours cannot be told apart."""


class SteeringCurves:
    """The steering of each tensor over the steps of one training."""

    def __init__(self) -> None:
        self._steps: dict[str, dict[int, TensorSteering]] = {}
        self._sizes: dict[str, int] = {}

    def add(self, step: int, observations: Iterable[TensorObservation]) -> None:
        """Keep what steered a step."""
        for seen in observations:
            if seen.steering is not None:
                self._sizes[seen.name] = seen.size
                self._steps.setdefault(seen.name, {})[step] = seen.steering

    def figure(self) -> Figure | None:
        """Draw step sizes beside the schedule, multipliers, and parts of the mix.

        Returns:
            The figure; None if nothing steered.
        """
        if not self._steps:
            return None
        import_matplotlib()
        from matplotlib import colormaps
        from matplotlib.figure import Figure

        largest = set(sorted(self._sizes, key=lambda name: -self._sizes[name])[:MOST_LINES])
        shown = {name: steps for name, steps in self._steps.items() if name in largest}
        parts = list(next(iter(next(iter(shown.values())).values())).mix)
        panels = 2 + len(parts)
        figure = Figure((8, 3 * math.ceil(panels / 2)), dpi=150, layout="constrained")
        axes: list[Any] = list(figure.subplots(math.ceil(panels / 2), 2, sharex=True).flat)
        for spare in axes[panels:]:
            spare.set_visible(False)
        colors = colormaps["tab10"]
        for place, (name, steps) in enumerate(shown.items()):
            when, steered = list(steps), list(steps.values())
            sizes = [one.schedule * one.multiplier for one in steered]
            line = {"color": colors(place), "linewidth": 1.4}
            axes[0].plot(when, sizes, label=name, **line)
            axes[1].plot(when, [one.multiplier for one in steered], **line)
            for axis, part in zip(axes[2:], parts, strict=False):
                axis.plot(when, [one.mix[part] for one in steered], **line)
        when, steered = list(steps), list(steps.values())
        schedule = [one.schedule for one in steered]
        axes[0].plot(when, schedule, "--", color="black", linewidth=2, label="schedule")
        axes[1].axhline(1, linestyle="--", color="black", linewidth=2)
        axes[1].set_yscale("log")
        titles = ["step size", "the network's factor on the step size"]
        titles += [f"part of the direction: {part}" for part in parts]
        for axis, title in zip(axes, titles, strict=False):
            axis.set_title(title, fontsize=11)
            axis.grid(True, alpha=0.3)
            axis.set_xlabel("inner step of a fresh run")
        figure.legend(loc="outside right upper", frameon=False)
        return figure
