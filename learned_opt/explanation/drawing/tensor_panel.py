"""Draws panel 7: sizes of steps, by step and by layer, and their directions. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import FixedLocator, NullFormatter

from learned_opt.explanation.drawing.style import DIVERGING, GREYS, INK, OWN, SHADES
from learned_opt.explanation.measurements.tensor_steps import LAYERS
from learned_opt.explanation.words import percent

if TYPE_CHECKING:
    from learned_opt.explanation.measurements.measured import Findings


def draw_tensors(findings: Findings, axes: Sequence[Axes]) -> None:
    """Sizes over a training, sizes by layer, and directions."""
    left, middle, right = axes
    found = findings.trainings.tensor_steps
    for k, (name, sizes) in enumerate(found.sizes.items()):
        color = SHADES((k + 0.5) / len(found.sizes))
        left.plot(range(1, len(sizes) + 1), sizes, color=color, linewidth=1.2, label=name)
    if found.schedule:
        steps = range(1, len(found.schedule) + 1)
        left.plot(steps, found.schedule, **GREYS[2], label="base's step")
    left.set_yscale("log")
    left.yaxis.set_minor_formatter(NullFormatter())
    left.set_xlabel("step")
    what = "factor on the base's step" if found.steered else "update RMS / weight RMS"
    left.set_ylabel(what)
    low, high = left.get_ylim()
    # Steps that vanish, as those of dead units, leave the picture: others would be one line.
    low = max(low, 1e-3 * float(np.median(np.concatenate([*found.sizes.values()]))))
    left.set_ylim(low, high * (high / low) ** 0.45)  # room for the legend
    left.legend(frameon=False, fontsize=6, ncols=3, handlelength=1, columnspacing=0.8,
                labelspacing=0.2, loc="upper left")  # fmt: skip

    names = list(found.layers)
    table = np.array(
        [[found.layers[name].get(layer, np.nan) for layer in LAYERS] for name in names]
    )
    if found.steered:
        reach = max(np.nanmax(table), 1 / np.nanmin(table), 1.5)
        image = middle.imshow(table, cmap=DIVERGING, norm=LogNorm(1 / reach, reach), aspect="auto")
    else:
        low, high = np.nanmin(table), np.nanmax(table)
        image = middle.imshow(table, cmap=SHADES, norm=LogNorm(low / 1.5, high * 3), aspect="auto")
    for row, column in np.argwhere(~np.isnan(table)):
        value = table[row, column]
        text = f"{value:.2f}" if found.steered else percent(value)
        dark = np.dot(image.cmap(image.norm(value))[:3], (0.3, 0.59, 0.11)) < 0.5
        middle.text(column, row, text, size=6.5, ha="center", va="center",
                    color="white" if dark else INK)  # fmt: skip
    middle.set_xticks(range(len(LAYERS)), ["first", "inner", "last", "biases"])
    middle.set_yticks(range(len(names)), names)
    middle.tick_params(length=0)
    middle.spines[:].set_visible(False)
    middle.set_xlabel(what)

    bars = list(found.mix.items())
    right.barh(range(len(bars)), [value for _, value in bars], 0.65, color=OWN)
    right.set_yticks(range(len(bars)), [name.replace(" of ", "\nof ") for name, _ in bars])
    right.tick_params(axis="y", length=0)
    right.invert_yaxis()
    right.set_xlim(1.1 * min(0.0, *(value for _, value in bars)), 1)
    right.xaxis.set_major_locator(FixedLocator([-1, -0.5, 0, 0.5, 1]))
    right.axvline(0, color=INK, linewidth=0.6)
    right.set_xlabel("cosine of the update with this direction")
