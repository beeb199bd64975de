"""Heat maps of gate values: sampled coordinates by steps, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from learned_opt.monitoring.figures import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats: TypeAlias = NDArray[np.float32]

Column: TypeAlias = dict[tuple[str, str], Floats]
"""Gate values of one step, `[rows]`, by (tensor, gate)."""

MOST_TENSORS = 40
"""Most tensors that a figure shows unless they are named: half an inch of height for each."""

LONGEST_LABEL = 48
"""Most characters of a tensor's name; of a longer one, a figure shows the end."""


class HeatMaps:
    """Gates of a few coordinates per tensor over steps, in bounded memory.

    Args:
        max_columns: most steps in memory.

    Attributes:
        sizes: number of elements by tensor; a figure shows the largest tensors. A tensor without
            an entry counts as the smallest.

    Raises:
        ImportError: matplotlib is not installed.
    """

    def __init__(self, max_columns: int) -> None:
        if find_spec("matplotlib") is None:  # now, not when training is over
            raise ImportError(
                "heat maps of gates need matplotlib, which is not installed: "
                "python -m pip install 'learned-opt[tensorboard]'"
            )
        self.max_columns = max_columns
        self.sizes: dict[str, int] = {}
        self._columns: dict[int, Column] = {}
        self.clear()

    def clear(self) -> None:
        """Forget all steps."""
        self.sizes.clear()
        self._columns.clear()
        self.last_step = -1
        self.observed = 0
        self._stride = 1

    def column(self, step: int) -> Column | None:
        """The column of a step, to be filled; None if the step is thinned out."""
        if step != self.last_step:
            if self.observed % self._stride == 0:
                self._columns[step] = {}
            if len(self._columns) > self.max_columns:
                for dropped in list(self._columns)[1::2]:
                    del self._columns[dropped]
                self._stride *= 2
            self.last_step = step
            self.observed += 1
        return self._columns.get(step)

    def steps(self) -> list[int]:
        """The steps in memory that have values."""
        return [step for step, column in self._columns.items() if column]

    def names(self) -> tuple[list[str], list[str]]:
        """Names of the tensors in memory, in the order of the parameters, and of their gates."""
        seen = dict.fromkeys(chain.from_iterable(self._columns.values()))
        return list(dict.fromkeys(name for name, _ in seen)), list(
            dict.fromkeys(g for _, g in seen)
        )

    def _largest(self, tensors: Sequence[str]) -> list[str]:
        """The `MOST_TENSORS` largest tensors, in the order given."""
        ranked = sorted(tensors, key=lambda name: self.sizes.get(name, 0), reverse=True)
        shown = set(ranked[:MOST_TENSORS])
        return [name for name in tensors if name in shown]

    def figure(
        self, gates: Sequence[str] | None = None, tensors: Sequence[str] | None = None
    ) -> Figure:
        """Draw the heat maps: a column per gate, a band per tensor, a row per sampled coordinate.

        Rows are sorted by their mean over the steps. Each gate has its own colour scale.

        Args:
            gates: names of gates, from left to right; by default all that were observed.
            tensors: names of tensors, from top to bottom; by default the `MOST_TENSORS` with the
                most elements, in the order of the parameters. The title says how many are left
                out.

        Raises:
            ValueError: a gate or tensor was not observed.
        """
        import_matplotlib()
        from matplotlib.figure import Figure

        observed, known_gates = self.names()
        gates = known_gates if gates is None else gates
        title = None
        if tensors is None:
            tensors = self._largest(observed)
            if left_out := len(observed) - len(tensors):
                title = (
                    f"the {len(tensors)} largest of {len(observed)} tensors ({left_out} left out)"
                )
        for chosen, known in ((gates, known_gates), (tensors, observed)):
            if not chosen or set(chosen) - set(known):
                raise ValueError(f"only {_listed(known)} were observed, got {_listed(chosen)}")
        labels = [_shortened(tensor) for tensor in tensors]
        beside = 0.8 + 0.075 * max(map(len, labels))  # inches, at the usual size of letters
        size = beside + 4.0 * len(gates), min(1.0 + 0.75 * len(tensors), 20.0)
        figure = Figure(size, dpi=120, layout="constrained")
        panels = figure.subplots(1, len(gates), sharey=True, squeeze=False)[0]
        for axes, gate in zip(panels, gates, strict=True):
            self._draw(axes, gate, tensors)
        panels[0].invert_yaxis()
        panels[0].set_yticks(np.arange(len(tensors)) + 0.46, labels)
        if title is not None:
            figure.suptitle(title, fontsize="medium")
        figure.supylabel("sampled coordinates, by parameter tensor", fontsize="medium")
        return figure

    def _draw(self, axes: Axes, gate: str, tensors: Sequence[str]) -> None:
        """Draw one gate: bands of height 1, each with a white gap below."""
        from matplotlib.ticker import ScalarFormatter

        steps = self.steps()
        values, heights = [], [0.0]
        for tensor in tensors:
            band = self._band(steps, tensor, gate)
            values += [band, np.full((1, len(steps)), np.nan, np.float32)]
            heights += [0.92 / len(band)] * len(band) + [0.08]
        image = np.concatenate(values)
        # Outliers saturate the colour; a constant gate still needs a scale.
        finite = image[np.isfinite(image)]
        low, high = np.percentile(finite, (1, 99)) if finite.size else (0.0, 1.0)
        pad = max(0.0, 1e-5 - (high - low)) / 2
        drawn = axes.pcolorfast(
            _edges(steps), np.cumsum(heights), image, vmin=low - pad, vmax=high + pad
        )
        axes.set_title(f"{gate.replace('_', ' ')} gate")
        axes.set_xlabel("step")
        axes.tick_params(axis="y", length=0)
        axes.spines[:].set_visible(False)
        digits = ScalarFormatter(useOffset=False)
        axes.figure.colorbar(
            drawn, ax=axes, extend="both", format=digits, aspect=30, pad=0.02, fraction=0.05
        )

    def _band(self, steps: Sequence[int], tensor: str, gate: str) -> Floats:
        """Rows of one tensor, `[rows, steps]`, sorted by their mean; NaN if not observed."""
        kept = [self._columns[step].get((tensor, gate)) for step in steps]
        rows = max((len(column) for column in kept if column is not None), default=1)
        band = np.full((rows, len(steps)), np.nan, np.float32)
        for place, column in enumerate(kept):
            if column is not None:  # the tensor of this name may be smaller in another task
                band[: len(column), place] = column
        ordered: Floats = band[np.nansum(-band, axis=1).argsort()]
        return ordered


def _shortened(name: str) -> str:
    """The last `LONGEST_LABEL` characters of a name."""
    return name if len(name) <= LONGEST_LABEL else f"...{name[3 - LONGEST_LABEL :]}"


def _listed(names: Sequence[str]) -> str:
    """The names as a list of at most ten."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{list(names[:10])}{more}"


def _edges(centres: Sequence[int]) -> NDArray[np.float64]:
    """Borders half-way between neighbours, `[n]` to `[n + 1]`."""
    padded = np.array([centres[0], *centres, centres[-1]], dtype=np.float64)
    padded[0] -= padded[2] - padded[1] if len(centres) > 1 else 1
    padded[-1] += padded[-2] - padded[-3] if len(centres) > 1 else 1
    return (padded[1:] + padded[:-1]) / 2
