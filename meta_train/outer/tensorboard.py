"""TensorBoard: scalars of outer steps, validation curves, and what the rule does."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from learned_opt.monitoring.figures import log_figure
from learned_opt.rules.base import UpdateRule
from meta_train.outer.gate_probe import GateProbe
from meta_train.outer.record import OuterStepRecord
from meta_train.runtime.checks import check_not_negative

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from learned_opt.monitoring.custom_scalars import Page
    from learned_opt.monitoring.event_writer import EventWriter
    from meta_train.outer.rule_log import RuleLog

RUN = "meta-training"
"""Name of the run in TensorBoard, and of its folder in that of the events."""

LOG_EVERY = 10
"""Outer steps between entries. Losses and norms are means over them."""


@dataclass(frozen=True)
class LoggingSettings:
    """Settings of TensorBoard.

    Raises:
        ValueError: names the setting and its value.
    """

    gates_every: int = 100
    """Outer steps between fresh runs of the rule, whose gates and steps are logged (0: none)."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_not_negative(gates_every=self.gates_every)


class TensorBoardLogger:
    """Writes events in the first process.

    Losses, counts and throughput are those of all processes; the horizon and the fresh runs are
    those of the first process. A chart that would only repeat another, and a count that is zero,
    are left out. If the disk is full, logging stops with one warning, which names the folder, and
    meta-training goes on.

    Args:
        folder: folder of the events; the run is `meta-training` in it.
        gates_every: outer steps between fresh runs of the rule; 0 for none.
        done: outer steps taken before. Entries of later steps, by a process that was killed, are
            hidden: the resumed run takes these steps again.
    """

    def __init__(self, folder: Path, gates_every: int, done: int = 0) -> None:
        # tensorboard is optional
        from learned_opt.monitoring.charts import UnchangedScalars
        from learned_opt.monitoring.event_writer import Disk, EventWriter
        from meta_train.outer.rule_log import RuleLog

        self.folder = folder
        self.gates_every = gates_every
        self._writer: EventWriter | None = None
        self._rule_log: RuleLog | None = None
        self._logged_at: float | None = None
        self._inner_steps = 0
        self._recent: defaultdict[str, list[float]] = defaultdict(list)
        self._families: set[str] = set()
        self._troubled = False
        self._unchanged = UnchangedScalars()
        self._page: Page = {}
        disk = Disk(folder)
        try:
            self._writer = EventWriter(folder / RUN, done + 1, disk=disk)
        except OSError as error:
            disk.fail(error)
            return
        if gates_every:
            self._rule_log = RuleLog(self._writer, folder, done + 1)
        self._write_page(done + 1)

    @property
    def writes(self) -> bool:
        """Whether events are written: not if the disk was full."""
        return self._writer is not None and not self._writer.failed

    def flush(self) -> None:
        """Write pending events; called before a checkpoint, so that a killed run leaves no gap."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Draw the last fresh run, and close the files."""
        if self._rule_log is not None and self.writes:
            self._rule_log.draw()
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
        self._write_page(record.outer_step)

    def _collect(self, record: OuterStepRecord) -> None:
        estimate = record.estimate
        if estimate.counted:
            self._recent["curves/meta_loss"].append(estimate.meta_loss)
            if not math.isclose(estimate.mean_loss, estimate.meta_loss, rel_tol=1e-6):
                self._recent["curves/mean_inner_loss"].append(estimate.mean_loss)
        if math.isfinite(record.gradient_norm):
            self._recent["outer/gradient_norm"].append(record.gradient_norm)
        for family, loss in zip(record.families, estimate.group_losses, strict=True):
            if not math.isnan(loss):
                self._recent[f"family/{family}"].append(loss)

    def _scalars(self, record: OuterStepRecord, seconds: float) -> Mapping[str, float]:
        scalars = {name: sum(values) / len(values) for name, values in self._recent.items()}
        self._recent.clear()
        families = {name for name in scalars if name.startswith("family/")}
        self._families |= families
        if len(self._families) == 1:  # its loss is the meta-loss
            for name in families:
                del scalars[name]
        scalars["outer/lr"] = record.learning_rate
        if self._unchanged.changes("outer/horizon", record.horizon):
            scalars["outer/horizon"] = record.horizon
        for name, count in (("diverged", record.diverged), ("skipped", record.skipped)):
            if count:
                self._troubled = True
                scalars[f"outer/{name}"] = count
        since, self._logged_at = self._logged_at, seconds
        if since is not None and seconds > since:
            scalars["outer/inner_steps_per_second"] = self._inner_steps / (seconds - since)
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
        self._writer.add_scalar("curves/validation_loss", value, outer_step)
        log_figure(self._writer, "curves/validation", figure, outer_step)

    def gates_due(self, outer_step: int) -> bool:
        """Whether `log_gates` is to be called in this outer step."""
        return self._rule_log is not None and self.writes and outer_step % self.gates_every == 0

    def log_gates(
        self, rule: UpdateRule, run: Iterable[tuple[int, GateProbe]], outer_step: int
    ) -> None:
        """Log what a rule does in a fresh run.

        Args:
            rule: the rule.
            run: its inputs, by inner step; see `fresh_run`.
            outer_step: when.
        """
        if self._rule_log is None:
            return
        self._rule_log.add(rule, run, outer_step)
        self._write_page(outer_step)

    def _write_page(self, step: int) -> None:
        """Write the layout of custom scalars, where it has changed."""
        from learned_opt.monitoring.custom_scalars import Lines, write_layout

        # Side by side, not in one chart: they are different functions of the losses, and lines of
        # one run have one colour.
        losses = [
            Lines("meta-loss", ("^curves/meta_loss$",)),
            Lines("validation loss", ("^curves/validation_loss$",)),
        ]
        if len(self._families) > 1:
            losses.append(Lines("loss by family", ("^family/",)))
        trouble = [Lines("norm of the meta-gradient", ("^outer/gradient_norm$",))]
        if self._troubled:
            counts = Lines("diverged runs, skipped outer steps", ("^outer/(diverged|skipped)$",))
            trouble.insert(0, counts)
        rule = {} if self._rule_log is None else self._rule_log.page()
        page: Page = {"Meta-training": losses, **rule, "Trouble": trouble}
        if page != self._page and self._writer is not None:
            self._page = page
            write_layout(self._writer, page, step)
