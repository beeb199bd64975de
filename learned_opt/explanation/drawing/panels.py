"""Draws each panel into its axes. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from learned_opt.explanation.drawing.style import FAINT, GREYS, INK, OWN, SHADES
from learned_opt.explanation.drawing.tensor_panel import draw_tensors
from learned_opt.explanation.measurements.probe import smoothed
from learned_opt.explanation.measurements.schedule import PLANS, STOP
from learned_opt.explanation.measurements.symmetry import CHANGES, EXACT

if TYPE_CHECKING:
    from learned_opt.explanation.measurements.measured import Findings, Responses


@dataclass(frozen=True)
class Panel:
    """A panel of the page.

    Attributes:
        title: its heading.
        pictures: number of axes.
        draw: draws into them.
    """

    title: str
    pictures: int
    draw: Callable[[Findings, Sequence[Axes]], None]


def _others(findings: Findings) -> Iterator[tuple[Responses, Mapping[str, Any]]]:
    for k, found in enumerate(findings.compared.values()):
        yield found, GREYS[k % len(GREYS)]


def _curves(findings: Findings, axis: Axes, points: Callable[[Responses], tuple[Any, Any]]) -> None:
    """Draw a line for each rule, the explained one last."""
    for found, style in _others(findings):
        axis.plot(*points(found), **style, zorder=2)
    axis.plot(*points(findings.own), color=OWN, linewidth=2, zorder=3)


def draw_update(findings: Findings, axes: Sequence[Axes]) -> None:
    """Update against gradient, over the density of gradients."""
    (axis,) = axes
    density = findings.trainings.density
    edge = 4.0

    def curve(found: Responses) -> tuple[Any, Any]:
        sizes = np.array(found.update_curve.gradients) / density.typical
        up, down = np.array(found.update_curve.updates), np.array(found.update_curve.negative)
        at_one = np.interp(1.0, sizes, (np.abs(up) + np.abs(down)) / 2)
        x = np.concatenate([-sizes[::-1], sizes])
        y = np.concatenate([-down[::-1], up]) / (at_one or 1.0)
        return x, y

    _curves(findings, axis, curve)
    axis.set_xlim(-edge, edge)
    axis.set_ylim(-2.6, 2.6)
    met = np.array(density.sizes) / density.typical
    counts, edges = np.histogram(np.concatenate([-met, met]), 60, (-edge, edge), density=True)
    heights = np.sqrt(counts / counts.max()) * 2.2
    axis.stairs(heights - 2.6, edges, baseline=-2.6, fill=True, color=FAINT, zorder=0)
    axis.text(edge, -2.5, "gradients met", size=6.5, color=INK, ha="right", va="bottom")
    axis.axhline(0, color=FAINT, linewidth=0.8, zorder=1)
    axis.set_xlabel("gradient / typical gradient")
    axis.set_ylabel("first update, downhill\n(1 at the typical gradient)")


def draw_memory(findings: Findings, axes: Sequence[Axes]) -> None:
    """Impulse and step response."""
    left, right = axes
    shown = 31
    _curves(findings, left, lambda found: (range(shown), found.echo.impulse[:shown]))
    own = findings.own.echo
    left.plot(range(shown), own.impulse[:shown], "o", color=OWN, markersize=2.5, zorder=4)
    if own.momentum > 0.01:
        powers = own.momentum ** np.arange(len(own.impulse))
        factor = powers @ np.array(own.impulse) / (powers @ powers)
        left.plot(range(shown), factor * powers[:shown], ":", color=OWN, linewidth=1.2, zorder=3)
        left.text(
            0.97, 0.93, f"dotted: momentum {own.momentum:.2f}", size=7, color=OWN, ha="right",
            va="top", transform=left.transAxes,
        )  # fmt: skip
    left.axhline(0, color=FAINT, linewidth=0.8, zorder=1)
    left.set_xlabel("steps after one gradient more")
    left.set_ylabel("echo / usual update")
    steps = range(1, len(own.gain) + 1)
    _curves(findings, right, lambda found: (steps, found.echo.gain))
    right.axhline(1, color=FAINT, linewidth=0.8, zorder=1)
    right.set_ylim(bottom=min(0, right.get_ylim()[0]))
    right.set_xlabel("steps under a constant gradient")
    right.set_ylabel("update / update under noise")


def draw_schedule(findings: Findings, axes: Sequence[Axes]) -> None:
    """Update sizes over steps and over the share of the steps."""
    left, right = axes
    own = findings.own.schedule

    def relative(sizes: Sequence[float], largest: float) -> Any:
        return np.array(sizes) / (largest or 1.0)

    def curve(found: Responses) -> tuple[Any, Any]:
        noise = found.schedule.noise
        return range(1, len(noise) + 1), relative(noise, max(noise))

    _curves(findings, left, curve)
    stopped = relative(own.stopped, max(own.noise))
    steps = np.arange(1, len(stopped) + 1)
    left.plot(steps[STOP - 1 :], stopped[STOP - 1 :], "--", color=OWN, linewidth=1.3, zorder=3)
    left.text(STOP - 6, 2.3e-3, "gradients\nstop", size=6.5, color=OWN, va="bottom", ha="right")
    left.set_xlabel("step")
    left.set_ylabel("update RMS / largest")
    labels = "told {} steps" if own.told else "first {} steps"
    for k, planned in enumerate(PLANS):
        sizes = own.told.get(planned, own.noise[:planned])
        share = np.arange(1, planned + 1) / planned
        color = SHADES((k + 0.6) / len(PLANS))
        right.plot(share, relative(sizes, max(sizes)), color=color, label=labels.format(planned))
    right.legend(frameon=False, fontsize=6.5, loc="lower left", handlelength=1.2)
    right.set_xlabel("step / number of steps")
    right.set_ylabel("update RMS / largest")
    for axis in axes:
        axis.set_yscale("log")
        axis.set_ylim(1.5e-3, 1.5)


def draw_scale(findings: Findings, axes: Sequence[Axes]) -> None:
    """Update size against gradient scale."""
    (axis,) = axes
    _curves(findings, axis, lambda found: (found.scale.scales, found.scale.updates))
    typical = findings.trainings.density.typical
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.axvline(typical, color=FAINT, linewidth=0.8, zorder=1)
    axis.text(typical, 0.02, " typical", size=6.5, color="#7a828e", va="bottom",
              transform=axis.get_xaxis_transform())  # fmt: skip
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(LogLocator(numticks=6))
        side.set_minor_locator(NullLocator())
    axis.set_xlabel("gradient RMS")
    axis.set_ylabel("update RMS")


def draw_dynamics(findings: Findings, axes: Sequence[Axes]) -> None:
    """Principal components of the state, and eigenvalues in the complex plane."""
    left, right = axes
    path = findings.trainings.path
    if not path.size:
        _say(left, "no state")
    elif path.size == 1:
        for line in path.paths:
            left.plot([x for x, _ in line], color=OWN, linewidth=0.6, alpha=0.6)
        left.set_xlabel("step")
        left.set_ylabel("state, standardised")
    else:
        _draw_paths(findings, left)
    angle = np.linspace(0, 2 * np.pi, 200)
    right.plot(np.cos(angle), np.sin(angle), color="#9aa3b0", linewidth=0.8, zorder=1)
    right.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
    right.axvline(0, color=FAINT, linewidth=0.8, zorder=0)
    marks = [*zip(findings.compared, _others(findings), "+x12" * 8, strict=False)]
    for name, (found, style), mark in marks:
        if found.modes.eigenvalues:
            points = np.array(found.modes.eigenvalues).T
            right.plot(*points, mark, color=style["color"], markersize=8, zorder=4, label=name)
    if right.get_legend_handles_labels()[0]:
        right.legend(frameon=False, fontsize=6.5, loc="lower left", handlelength=1)
    for x, y in findings.own.modes.eigenvalues:
        right.plot(x, y, "o", color=OWN, markersize=4, alpha=0.75, markeredgewidth=0, zorder=3)
    right.set_aspect("equal", adjustable="box")
    values = np.array([value for value in findings.own.modes.eigenvalues or ((0, 0),)])
    if (values[:, 0] > -0.5).all() and (np.abs(values[:, 1]) < 0.58).all():
        right.set_xlim(-0.55, 1.22)
        right.set_ylim(-0.6, 0.6)
    else:
        right.set_xlim(-1.12, 1.12)
        right.set_ylim(-1.12, 1.12)
    right.set_xticks([-0.5, 0, 0.5, 0.9])
    right.set_yticks([-0.5, 0, 0.5])
    right.set_xlabel("eigenvalue, real part")
    right.set_ylabel("imaginary part")


def _draw_paths(findings: Findings, axis: Axes) -> None:
    path = findings.trainings.path
    lines = np.array(path.paths)
    for line in lines:
        x, y = line.T
        axis.scatter(x, y, c=np.arange(len(line)), cmap=SHADES, s=2.5, linewidths=0, zorder=2)
    means = np.array([smoothed(torch.from_numpy(column)) for column in lines.mean(0).T])
    axis.plot(*means, color="white", linewidth=2.2, zorder=3)
    axis.plot(*means, color=INK, linewidth=1.1, zorder=3)
    (low_x, low_y), (high_x, high_y) = np.quantile(lines.reshape(-1, 2), [0.005, 0.995], axis=0)
    notes = ["line: mean"]
    fixed = np.array(path.fixed).reshape(-1, 2)
    inside = (fixed > (low_x, low_y)).all(1) & (fixed < (high_x, high_y)).all(1)
    if len(fixed) and inside.mean() > 0.5:
        axis.plot(*fixed.T, "D", color=INK, markersize=3, zorder=4)
        notes.append("◆ fixed points")
    axis.text(0.99, 1.0, "; ".join(notes), size=6.5, color=INK, ha="right", va="bottom",
              transform=axis.transAxes)  # fmt: skip
    pad_x, pad_y = 0.12 * (high_x - low_x), 0.12 * (high_y - low_y)
    axis.set_xlim(low_x - pad_x, high_x + pad_x)
    axis.set_ylim(low_y - pad_y, high_y + pad_y)
    first, second = path.variance[:2]
    axis.set_xlabel(f"state, component 1 ({100 * first:.0f}%); dark is late")
    axis.set_ylabel(f"component 2 ({100 * second:.0f}%)")


def _say(axis: Axes, text: str) -> None:
    axis.text(0.5, 0.5, text, size=9, color="#7a828e", ha="center", transform=axis.transAxes)
    axis.set_xticks([])
    axis.set_yticks([])


def draw_symmetry(findings: Findings, axes: Sequence[Axes]) -> None:
    """Deviations from symmetry as bars."""
    (axis,) = axes
    names = list(CHANGES)
    rules = [(findings.own, OWN)]
    rules += [(found, style["color"]) for found, style in _others(findings)]
    height = 0.8 / len(rules)
    for k, (found, color) in enumerate(rules):
        places = np.arange(len(names)) + (k - (len(rules) - 1) / 2) * height
        values = [found.symmetry.deviations[name] for name in names]
        axis.barh(places, values, 0.85 * height, color=color)
        exact = [place for place, value in zip(places, values, strict=True) if value < EXACT]
        axis.plot([0.012] * len(exact), exact, "o", color=color, markersize=3, markeredgewidth=0)
    axis.set_yticks(range(len(names)), [name.replace(" and ", ",\n") for name in names])
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("deviation (dot: none)")


PANELS: Mapping[str, Panel] = MappingProxyType(
    {
        "update": Panel("First update", 1, draw_update),
        "memory": Panel("Memory of gradients", 2, draw_memory),
        "schedule": Panel("Schedule", 2, draw_schedule),
        "scale": Panel("Scale of gradients", 1, draw_scale),
        "dynamics": Panel("State", 2, draw_dynamics),
        "symmetry": Panel("Symmetry", 1, draw_symmetry),
        "tensors": Panel("Layers, widths and depths: six trainings", 3, draw_tensors),
    }
)
"""The panels by name."""
