"""The page: where panels stand, their headings, and the legend. Needs matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from learned_opt.explanation.drawing.panels import PANELS, Panel
from learned_opt.explanation.drawing.style import GREYS, INK, OWN
from learned_opt.registry import look_up

if TYPE_CHECKING:
    from learned_opt.explanation.measurements.measured import Findings

WIDTH = 9.6
ROWS = (("update", "memory"), ("schedule", "scale"), ("dynamics", "symmetry"), ("tensors",))
"""Panels by row; a row has three columns of pictures."""

PICTURE_HEIGHT, BELOW = 1.6, 0.42
"""Inches of a picture, and of the labels below it."""

TITLE, LINE, GAP = 0.19, 0.145, 0.2
"""Inches of a panel's title, of a line of its sentences, and between panels."""

LEFT, COLUMN, PICTURE_WIDTH = 0.62, 3.08, 2.36
"""Inches from the left edge to the first picture, between pictures, and of a picture."""

HEADER = 0.85
LETTERS = 15.8
"""Letters of a sentence in an inch, at most."""


def draw_page(findings: Findings, rows: Sequence[Sequence[str]] = ROWS) -> Figure:
    """Draw all panels, or those of some rows.

    Args:
        findings: what to draw.
        rows: names of panels, by row.
    """
    headings = [max(_heading_height(findings, name) for name in names) for names in rows]
    height = HEADER + sum(headings) + (PICTURE_HEIGHT + BELOW + GAP) * len(rows)
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    left = (LEFT - 0.45) / WIDTH
    figure.text(left, 1 - 0.20 / height, findings.name, size=17, weight="bold", va="top",
                color=OWN)  # fmt: skip
    figure.text(left, 1 - 0.56 / height, findings.subtitle, size=9, va="top", color=INK)
    _legend(figure, findings, height)
    numbers = {name: f"{number}  " for number, name in enumerate(findings.sentences, 1)}
    top = height - HEADER
    for names, heading in zip(rows, headings, strict=True):
        column = 0
        for name in names:
            _draw(figure, findings, name, numbers[name], column, top, heading)
            column += PANELS[name].pictures
        top -= heading + PICTURE_HEIGHT + BELOW + GAP
    return figure


def draw_panel(findings: Findings, name: str) -> Figure:
    """Draw one panel.

    Raises:
        ValueError: an unknown panel.
    """
    panel = look_up("panel", name, PANELS)
    width = LEFT + COLUMN * panel.pictures + 0.1
    heading = _heading_height(findings, name)
    height = 0.45 + heading + PICTURE_HEIGHT + BELOW + 0.05
    figure = Figure(figsize=(width, height), facecolor="white")
    _draw(figure, findings, name, "", 0, height - 0.45, heading)
    _legend(figure, findings, height)
    return figure


def _lines(findings: Findings, name: str) -> list[str]:
    """The sentences of a panel in lines of its width."""
    letters = int(LETTERS * (COLUMN * PANELS[name].pictures - 0.15))
    return textwrap.wrap(findings.sentences[name], letters)


def _heading_height(findings: Findings, name: str) -> float:
    """Inches of a panel's title and sentences."""
    return TITLE + LINE * len(_lines(findings, name)) + 0.12


def _draw(
    figure: Figure,
    findings: Findings,
    name: str,
    number: str,
    column: int,
    top: float,
    heading: float,
) -> None:
    """Draw a panel's heading and its pictures below.

    Args:
        figure: to draw in.
        findings: what to draw.
        name: of the panel.
        number: stands before the title.
        column: of the first picture.
        top: of the title, inches from the bottom of the figure.
        heading: inches from there to the pictures.
    """
    panel: Panel = PANELS[name]
    width, height = figure.get_size_inches()
    axes = []
    for place in range(column, column + panel.pictures):
        corner = LEFT + COLUMN * place, top - heading - PICTURE_HEIGHT
        axis = figure.add_axes(
            (
                corner[0] / width,
                corner[1] / height,
                PICTURE_WIDTH / width,
                PICTURE_HEIGHT / height,
            )
        )
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7, colors=INK)
        axes.append(axis)
    panel.draw(findings, axes)
    for axis in axes:
        axis.xaxis.label.set(size=7.5, color=INK)
        axis.yaxis.label.set(size=7.5, color=INK)
    left = LEFT + COLUMN * column - 0.45
    figure.text(left / width, top / height, number + panel.title, size=9.5, weight="bold",
                va="top", color=INK)  # fmt: skip
    figure.text(left / width, (top - TITLE) / height, "\n".join(_lines(findings, name)),
                size=8, va="top", color=INK, linespacing=1.15)  # fmt: skip


def _legend(figure: Figure, findings: Findings, height: float) -> None:
    lines = [Line2D([], [], color=OWN, linewidth=2, label=findings.name)]
    for name, style in zip(findings.compared, GREYS, strict=False):
        lines.append(Line2D([], [], **style, label=name))
    figure.legend(
        handles=lines,
        loc="upper right",
        bbox_to_anchor=(0.995, 1 - 0.12 / height),
        ncols=len(lines),
        frameon=False,
        fontsize=8,
        handlelength=1.8,
    )
