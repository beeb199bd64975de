"""TensorBoard: scalars of outer steps, validation curves, and gates."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from learned_opt.monitoring.figures import log_figure
from learned_opt.monitoring.monitor import GateMonitor
from learned_opt.rules.base import UpdateRule
from meta_train.outer.gate_probe import GateProbe
from meta_train.outer.record import OuterStepRecord
from meta_train.runtime.checks import check_not_negative

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from learned_opt.monitoring.event_writer import EventWriter

LOG_EVERY = 10
"""Outer steps between entries. Losses and norms are means over them."""


@dataclass(frozen=True)
class LoggingSettings:
    """Settings of TensorBoard.

    Raises:
        ValueError: names the setting and its value.
    """

    gates_every: int = 100
    """Outer steps between summaries of the gates (0: none)."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_not_negative(gates_every=self.gates_every)


class TensorBoardLogger:
    """Writes events in the first process.

    Losses, counts and throughput are those of all processes; the horizon and the gates are those of
    the first process's runs. If the disk is full, logging stops with one warning, which names the
    folder, and meta-training goes on.

    Args:
        folder: folder of the events.
        gates_every: outer steps between summaries of the gates; 0 for none.
        done: outer steps taken before. Entries of later steps, by a process that was killed, are
            hidden: the resumed run takes these steps again.
    """

    def __init__(self, folder: Path, gates_every: int, done: int = 0) -> None:
        from learned_opt.monitoring.event_writer import EventWriter  # tensorboard is optional

        self.folder = folder
        self.gates_every = gates_every
        self._writer: EventWriter | None = None
        self._monitor: GateMonitor | None = None
        self._logged_at: float | None = None
        self._inner_steps = 0
        self._recent: defaultdict[str, list[float]] = defaultdict(list)
        try:
            self._writer = EventWriter(folder, done + 1)
        except OSError as error:
            warnings.warn(
                f"could not write to {folder}: {error.strerror or error}; training goes on "
                "without TensorBoard",
                stacklevel=2,
            )
            return
        if gates_every:
            self._monitor = GateMonitor(self._writer, every=1, heat_map_every=10)

    @property
    def writes(self) -> bool:
        """Whether events are written: not if the disk was full."""
        return self._writer is not None and not self._writer.failed

    def flush(self) -> None:
        """Write pending events; called before a checkpoint, so that a killed run leaves no gap."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        if self._monitor is not None and self.writes:
            self._monitor.close()
        if self._writer is not None:
            self._writer.close()

    def log_step(self, record: OuterStepRecord, seconds: float) -> None:
        """Log an outer step.

        Args:
            record: the step.
            seconds: duration of meta-training so far.
        """
        if self._writer is None or not self.writes:
            return
        self._inner_steps += record.estimate.inner_steps
        self._collect(record)
        if record.outer_step % LOG_EVERY:
            return
        for name, value in self._scalars(record, seconds).items():
            self._writer.add_scalar(name, value, record.outer_step)

    def _collect(self, record: OuterStepRecord) -> None:
        estimate = record.estimate
        if estimate.counted:
            self._recent["meta/loss"].append(estimate.meta_loss)
            self._recent["meta/mean_inner_loss"].append(estimate.mean_loss)
        if math.isfinite(record.gradient_norm):
            self._recent["meta/gradient_norm"].append(record.gradient_norm)
        for family, loss in zip(record.families, estimate.group_losses, strict=True):
            if not math.isnan(loss):
                self._recent[f"family/{family}"].append(loss)

    def _scalars(self, record: OuterStepRecord, seconds: float) -> dict[str, float]:
        scalars = {name: sum(values) / len(values) for name, values in self._recent.items()}
        self._recent.clear()
        scalars["meta/lr"] = record.learning_rate
        scalars["meta/diverged"] = record.diverged
        scalars["meta/skipped"] = record.skipped
        scalars["meta/horizon"] = record.horizon
        since, self._logged_at = self._logged_at, seconds
        if since is not None and seconds > since:
            scalars["meta/inner_steps_per_second"] = self._inner_steps / (seconds - since)
        self._inner_steps = 0
        return scalars

    def log_validation(
        self, value: float, outer_step: int, figure: Callable[[], Figure | None]
    ) -> None:
        """Log a validation.

        Args:
            value: the validation loss.
            outer_step: when.
            figure: draws the curves, or returns None; only called if they can be logged.
        """
        if self._writer is None or not self.writes:
            return
        self._writer.add_scalar("validation/loss", value, outer_step)
        log_figure(self._writer, "validation/curves", figure, outer_step)

    def gates_due(self, outer_step: int) -> bool:
        """Whether `log_gates` is to be called in this outer step."""
        return self._monitor is not None and self.writes and outer_step % self.gates_every == 0

    def log_gates(self, rule: UpdateRule, probe: GateProbe, outer_step: int) -> None:
        """Log the gates of a rule.

        Args:
            rule: the rule.
            probe: its inputs.
            outer_step: when.
        """
        if self._monitor is None:
            return
        self._monitor.observe(
            rule,
            probe.names,
            probe.gradients,
            probe.parameters,
            probe.states,
            probe.context,
            outer_step,
        )
