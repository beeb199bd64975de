"""Heat maps of gate values: sampled coordinates, or units, by steps, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from learned_opt.monitoring.figures import import_matplotlib
from learned_opt.monitoring.gate_scale import on_used_scale
from learned_opt.monitoring.observation import MOST_TENSORS, Floats, TensorObservation
from learned_opt.monitoring.samples import CoordinateSamples

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Column: TypeAlias = dict[tuple[str, str], Floats]
"""Gate values of one step, `[rows]`, by (tensor, gate)."""

WIDTH, DPI = 6.5, 160
"""Inches of a gate in a figure, and pixels of an inch.

Narrow, so that letters can be read in TensorBoard, which first shows pictures 260 pixels wide.
"""

LETTERS = 13

LONGEST_LABEL = 48
"""Most characters of a tensor's name; of a longer one, a figure shows the end."""


class HeatMaps:
    """Gates of a few coordinates per tensor over steps, in bounded memory.

    Args:
        max_columns: most steps in memory.
        rows: most coordinates of a tensor. With H units per coordinate, row k shows unit k modulo
            H; if all coordinates share the gate, row k shows unit k.
        samples: chooses the coordinates.

    Attributes:
        sizes: number of elements by tensor; a figure shows the largest tensors. A tensor without
            an entry counts as the smallest.
        shared: gates that all coordinates of a tensor share, whose rows are units.

    Raises:
        ImportError: matplotlib is not installed.
    """

    def __init__(self, max_columns: int, rows: int, samples: CoordinateSamples) -> None:
        if find_spec("matplotlib") is None:  # now, not when training is over
            raise ImportError(
                "heat maps of gates need matplotlib, which is not installed: "
                "python -m pip install 'learned-opt[tensorboard]'"
            )
        self.max_columns = max_columns
        self.rows = rows
        self.samples = samples
        self.sizes: dict[str, int] = {}
        self.shared: set[str] = set()
        self._columns: dict[int, Column] = {}
        self.clear()

    def clear(self) -> None:
        """Forget all steps."""
        self.sizes.clear()
        self.shared.clear()
        self._columns.clear()
        self.last_step = -1
        self.observed = 0
        self._stride = 1

    def add(self, step: int, observations: Iterable[TensorObservation]) -> None:
        """Keep the gates of a step, unless the step is thinned out."""
        column = self.column(step)
        if column is None:
            return
        for seen in observations:
            self.shared |= seen.shared
            for gate, values in seen.gates.items():
                self.sizes[seen.name] = seen.size
                places = self.samples.places(seen.name, len(values))[: self.rows].numpy()
                units = np.arange(len(places)) % values.shape[1]
                column[seen.name, gate] = values[places, units]

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
        self,
        gates: Sequence[str] | None = None,
        tensors: Sequence[str] | None = None,
        axis: str = "step",
    ) -> Figure:
        """Draw the heat maps: a column per gate, a band per tensor, a row per sampled coordinate.

        The rows of a gate that all coordinates share are the units of the tensor's LSTM.
        Rows are sorted by how much they change, the liveliest on top. Each gate has its own colour
        scale; that of a gate near 0 or 1 is logarithmic.

        Args:
            gates: names of gates, from left to right; by default all that were observed.
            tensors: names of tensors, from top to bottom; by default the `MOST_TENSORS` with the
                most elements, in the order of the parameters. The title says how many are left
                out.
            axis: label of the axis of steps.

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
        size = WIDTH * len(gates), min(1.4 + 0.75 * len(tensors), 20.0)
        figure = Figure(size, dpi=DPI, layout="constrained")
        panels = figure.subplots(1, len(gates), sharey=True, squeeze=False)[0]
        for axes, gate in zip(panels, gates, strict=True):
            self._draw(axes, gate, tensors)
            axes.set_xlabel(axis, fontsize=LETTERS)
        panels[0].invert_yaxis()
        panels[0].set_yticks(np.arange(len(tensors)) + 0.46, labels, fontsize=LETTERS)
        if title is not None:
            figure.suptitle(title, fontsize=LETTERS)
        kinds = ("LSTM units" if gate in self.shared else "sampled coordinates" for gate in gates)
        rows = " or ".join(dict.fromkeys(kinds))
        figure.supylabel(f"{rows}, by parameter tensor", fontsize=LETTERS)
        return figure

    def _draw(self, axes: Axes, gate: str, tensors: Sequence[str]) -> None:
        """Draw one gate: bands of height 1, each with a white gap below."""
        from matplotlib.ticker import ScalarFormatter

        steps = self.steps()
        bands = [self._band(steps, tensor, gate) for tensor in tensors]
        name = gate.replace("_", " ")
        quantity, shown = on_used_scale(np.concatenate(bands), gate)
        values, heights, row = [], [0.0], 0
        for band in bands:
            own = shown[row : row + len(band)]
            row += len(band)
            values += [_liveliest_first(own), np.full((1, len(steps)), np.nan, np.float32)]
            heights += [0.92 / len(band)] * len(band) + [0.08]
        image = np.concatenate(values)
        # Outliers saturate the colour; a constant gate still needs a scale.
        finite = image[np.isfinite(image)]
        low, high = np.percentile(finite, (1, 99)) if finite.size else (0.0, 1.0)
        pad = max(0.0, 1e-5 - (high - low)) / 2
        drawn = axes.pcolorfast(
            _edges(steps), np.cumsum(heights), image, vmin=low - pad, vmax=high + pad
        )
        title = f"{name} gate: {quantity}" if quantity else f"{name} gate"
        axes.set_title(title, fontsize=LETTERS)
        axes.tick_params(axis="x", labelsize=LETTERS)
        axes.tick_params(axis="y", length=0)
        axes.spines[:].set_visible(False)
        digits = ScalarFormatter(useOffset=False)
        bar = axes.figure.colorbar(
            drawn, ax=axes, extend="both", format=digits, aspect=30, pad=0.02, fraction=0.05
        )
        bar.ax.tick_params(labelsize=LETTERS - 2)

    def _band(self, steps: Sequence[int], tensor: str, gate: str) -> Floats:
        """Rows of one tensor, `[rows, steps]`; NaN if not observed."""
        kept = [self._columns[step].get((tensor, gate)) for step in steps]
        rows = max((len(column) for column in kept if column is not None), default=1)
        band = np.full((rows, len(steps)), np.nan, np.float32)
        for place, column in enumerate(kept):
            if column is not None:  # the tensor of this name may be smaller in another task
                band[: len(column), place] = column
        return band


def _liveliest_first(band: Floats) -> Floats:
    """Rows sorted by their largest change over the steps."""
    most = np.where(np.isfinite(band), band, -np.inf).max(1)
    least = np.where(np.isfinite(band), band, np.inf).min(1)
    ordered: Floats = band[np.argsort(least - most, kind="stable")]
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
