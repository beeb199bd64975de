"""Logs a rule in fresh inner runs: charts over outer steps, pictures over inner steps.

Needs tensorboard; import it where it is used.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from learned_opt.monitoring.charts import RuleCharts
from learned_opt.monitoring.custom_scalars import Page
from learned_opt.monitoring.event_writer import EventWriter
from learned_opt.monitoring.figures import log_figure
from learned_opt.monitoring.heat_maps import HeatMaps
from learned_opt.monitoring.observation import TensorObservation, TensorSteering, observe
from learned_opt.monitoring.rule_board import TensorWriters
from learned_opt.monitoring.samples import CoordinateSamples
from learned_opt.monitoring.steering_figure import SteeringCurves
from learned_opt.rules.base import UpdateRule
from meta_train.outer.gate_probe import GateProbe

COORDINATES, ROWS, COLUMNS = 256, 32, 256
"""Sampled coordinates of a tensor; those in a heat map; most steps in a heat map."""


class RuleLog:
    """Logs fresh runs of a rule, one after another.

    Charts show means over the run, with outer steps on the axis. Pictures show one run, with its
    inner steps on the axis; drawn at the first, second, fourth, eighth ... run and at the end.

    Args:
        writer: where pictures go.
        folder: where the charts of tensors go, in runs `tensors/<name>`.
        first_step: see `EventWriter`.
    """

    def __init__(self, writer: EventWriter, folder: Path, first_step: int) -> None:
        self.writer = writer
        self._tensors = TensorWriters(folder, writer.disk, first_step)
        self._charts = RuleCharts(saturated=(0.05, 0.95))
        self._samples = CoordinateSamples(COORDINATES, seed=0)
        self._seen = 0
        self._undrawn: tuple[int, HeatMaps, SteeringCurves] | None = None

    def add(self, rule: UpdateRule, run: Iterable[tuple[int, GateProbe]], outer_step: int) -> None:
        """Log a fresh run.

        Args:
            rule: the rule.
            run: its inputs, by inner step; see `fresh_run`.
            outer_step: when.
        """
        maps, steering = HeatMaps(COLUMNS, ROWS, self._samples), SteeringCurves()
        by_tensor: dict[str, list[TensorObservation]] = {}
        for step, probe in run:
            observations = observe(
                rule,
                probe.names,
                probe.gradients,
                probe.parameters,
                probe.states,
                probe.context,
                self._samples,
                lr=[rule.default_lr] * len(probe.names),
            )
            maps.add(step, observations)
            steering.add(step, observations)
            for seen in observations:
                by_tensor.setdefault(seen.name, []).append(seen)
        for name, steps in by_tensor.items():
            self._tensors.write(name, self._charts.of_tensor(over_steps(steps)), outer_step)
        self._seen += 1
        self._undrawn = outer_step, maps, steering
        if self._seen & (self._seen - 1) == 0:  # 1, 2, 4, 8, ...
            self.draw()

    def page(self) -> Page:
        """The charts of the page of custom scalars."""
        return self._charts.page()

    def draw(self) -> None:
        """Draw the last run, unless it is drawn."""
        if self._undrawn is None:
            return
        outer_step, maps, steering = self._undrawn
        self._undrawn = None
        for gate in maps.names()[1]:
            figure = functools.partial(maps.figure, [gate], axis="inner step of a fresh run")
            log_figure(self.writer, f"heat_maps/{gate}", figure, outer_step)
        log_figure(self.writer, "steering/fresh_run", steering.figure, outer_step)


def over_steps(steps: Sequence[TensorObservation]) -> TensorObservation:
    """A tensor over a run: root mean squares and means over its steps, and all values of gates."""
    first = steps[0]

    def rms(values: Iterable[float]) -> float:
        return float(np.sqrt(np.mean(np.square(list(values)))))

    steering = [seen.steering for seen in steps if seen.steering is not None]
    return TensorObservation(
        name=first.name,
        size=first.size,
        update_rms=rms(seen.update_rms for seen in steps),
        weight_rms=rms(seen.weight_rms for seen in steps),
        gradient_rms=rms(seen.gradient_rms for seen in steps),
        gates={gate: np.concatenate([s.gates[gate] for s in steps]) for gate in first.gates},
        steering=_mean_steering(steering) if steering else None,
    )


def _mean_steering(steps: Sequence[TensorSteering]) -> TensorSteering:
    return TensorSteering(
        schedule=float(np.mean([one.schedule for one in steps])),
        multiplier=float(np.mean([one.multiplier for one in steps])),
        mix={part: float(np.mean([one.mix[part] for one in steps])) for part in steps[0].mix},
    )
