"""Charts of an update rule: sizes of steps, gates as bands, and steering, a line for each tensor.

Needs tensorboard; import it where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from learned_opt.monitoring.custom_scalars import Bands, Lines, Page
from learned_opt.monitoring.gate_scale import on_used_scale
from learned_opt.monitoring.observation import Floats, TensorObservation
from learned_opt.monitoring.summaries import Summaries


class RuleCharts:
    """Turns observations of a rule into values, and lays their charts out.

    Each tensor is a run of TensorBoard, because a chart has a colour for each run. Its tags:

    - `effective_lr_log10`: log10 of the size of the update over that of the gradient;
    - `update_to_weight_log10`: log10 of the size of the update over that of the parameter;
    - `update_rms`: the size of the update;
    - `gates/<gate>`: a histogram of the gate's values;
    - `quantiles/<gate>/mean`, `10%` and `90%`: the middle and the edges of a band;
    - `log10_distance/<gate>/mean`, `10%` and `90%`: the same of log10(1 - g), while the gate g is
      near 1, or of log10(g), while it is near 0;
    - `saturated/<gate>`: the share of values outside two bounds, once it has changed;
    - of a rule that bends a schedule: `step_multiplier`, `step_size` (the schedule times the
      multiplier), and `mix/<part>`, the size of a part of the direction.

    Sizes are root mean squares.

    Args:
        saturated: a gate outside these bounds counts as saturated.
    """

    def __init__(self, saturated: tuple[float, float]) -> None:
        self.saturated = saturated
        self._moving: dict[str, bool] = {}  # by gate: whether it has been inside the bounds
        self._shown: dict[str, set[str]] = {}  # by gate: quantities of `on_used_scale` so far
        self._is_steered = False
        self._parts: dict[str, None] = {}  # of the direction, in order
        self._unchanged = UnchangedScalars()

    @property
    def has_gates(self) -> bool:
        """Whether any observed rule had a gate or a network that steers."""
        return bool(self._moving) or self._is_steered

    def of_tensor(self, seen: TensorObservation) -> Summaries:
        """The values of one tensor in one step, for the run of this tensor."""
        values = Summaries()
        values.scalar("update_rms", seen.update_rms)
        if seen.update_rms and seen.gradient_rms:
            lr = seen.update_rms / seen.gradient_rms
            values.scalar("effective_lr_log10", math.log10(lr))
        if seen.update_rms and seen.weight_rms:
            ratio = seen.update_rms / seen.weight_rms
            values.scalar("update_to_weight_log10", math.log10(ratio))
        for gate, recorded in seen.gates.items():
            self._add_gate(values, seen.name, gate, recorded)
        if seen.steering is not None:
            self._is_steered = True
            values.scalar("step_multiplier", seen.steering.multiplier)
            values.scalar("step_size", seen.steering.schedule * seen.steering.multiplier)
            for part, size in seen.steering.mix.items():
                self._parts.setdefault(part, None)
                if self._unchanged.changes(f"{seen.name}/mix/{part}", size):
                    values.scalar(f"mix/{part}", size)
        return values

    def _add_gate(self, values: Summaries, tensor: str, gate: str, recorded: Floats) -> None:
        finite = recorded[np.isfinite(recorded)]
        self._moving.setdefault(gate, False)
        if not finite.size:
            return
        low, high = self.saturated
        share = np.count_nonzero((finite < low) | (finite > high)) / finite.size
        if share < 1:
            self._moving[gate] = True
        if self._unchanged.changes(f"{tensor}/saturated/{gate}", share):
            values.scalar(f"saturated/{gate}", share)
        values.histogram(f"gates/{gate}", finite)
        _add_band(values, f"quantiles/{gate}", finite)
        quantity, distances = on_used_scale(finite, gate)
        self._shown.setdefault(gate, set()).add(quantity)
        if quantity:
            _add_band(values, f"log10_distance/{gate}", distances)

    def of_all(self, observations: Sequence[TensorObservation]) -> Summaries:
        """The values of one step that are not of a single tensor."""
        values = Summaries()
        schedules = {one.steering.schedule for one in observations if one.steering is not None}
        if len(schedules) == 1:  # tensors that were unfrozen later are at another place of it
            values.scalar("schedule", next(iter(schedules)))
        return values

    def page(self) -> Page:
        """The charts of the page "Custom scalars", in the order in which a person looks.

        Gates that have always been saturated come last.
        """
        steering = []
        if self._is_steered:
            steering = [
                Lines("step size, beside the schedule", ("^schedule$", "^step_size$")),
                Lines("the network's factor on the step size", ("^step_multiplier$",)),
            ]
            steering += [Lines(f"part of the direction: {p}", (f"^mix/{p}$",)) for p in self._parts]
        return {
            "How the network steers": steering,
            "Gates by tensor": [self._chart(g) for g, moving in self._moving.items() if moving],
            "Steps by tensor": [
                Lines("effective learning rate: log10 of update / gradient", ("^effective_lr",)),
                Lines("log10 of update / weight", ("^update_to_weight",)),
            ],
            "Gates that are always saturated": [
                self._chart(g) for g, moving in self._moving.items() if not moving
            ],
        }

    def _chart(self, gate: str) -> Bands:
        """The gate's band, on the scale that it has used in all tensors at all steps."""
        quantities = self._shown.get(gate, {""})
        (quantity,) = quantities if len(quantities) == 1 else ("",)
        name = f"{gate.replace('_', ' ')} gate"
        if quantity:
            tags = _band_tags(f"log10_distance/{gate}")
            return Bands(f"{name}, {quantity}: mean, 10% and 90%", (tags,))
        return Bands(f"{name}: mean, 10% and 90%", (_band_tags(f"quantiles/{gate}"),))


class UnchangedScalars:
    """Holds scalars back until they change: charts of constants hide the others.

    The constant beginning of a scalar is never written.
    """

    def __init__(self) -> None:
        self._first: dict[str, float] = {}
        self._changed: set[str] = set()

    def changes(self, tag: str, value: float) -> bool:
        """Whether the scalar has had another value than `value`, now or before."""
        if value != self._first.setdefault(tag, value):
            self._changed.add(tag)
        return tag in self._changed


def _add_band(values: Summaries, prefix: str, numbers: Floats) -> None:
    band = float(numbers.mean()), *_quantiles(numbers)
    for tag, number in zip(_band_tags(prefix), band, strict=True):
        values.scalar(tag, number)


def _band_tags(prefix: str) -> tuple[str, str, str]:
    return f"{prefix}/mean", f"{prefix}/10%", f"{prefix}/90%"


def _quantiles(values: Floats) -> tuple[float, float]:
    """The 10% and 90% quantiles, the nearest values below and above; faster than np.quantile."""
    ordered = np.sort(values, axis=None)
    rank = 0.1 * (len(ordered) - 1)
    return float(ordered[int(rank)]), float(ordered[-1 - int(rank)])
