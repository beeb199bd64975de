"""The outer loop: applies meta-gradients, logs, validates, checkpoints and resumes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learned_opt.files import expand
from learned_opt.rules import rule_name
from learned_opt.rules.base import UpdateRule
from meta_train.evaluation.validation.validator import Validator, as_validator
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.outer.build import build_parts
from meta_train.outer.c_library_record import library_changed
from meta_train.outer.checkpoint import Checkpoints, TrainingState
from meta_train.outer.console import Console
from meta_train.outer.gate_probe import fresh_run
from meta_train.outer.meta_optimizer import MetaOptimizer
from meta_train.outer.model_selection import ModelSelection
from meta_train.outer.outer_step import reduced_estimate, why_stalled
from meta_train.outer.record import OuterStepRecord
from meta_train.outer.reduce import ReducedEstimate
from meta_train.outer.settings import TrainSettings
from meta_train.outer.tensorboard import TensorBoardLogger
from meta_train.outer.training_state import Counters, StatefulParts
from meta_train.runtime.device import choose_device
from meta_train.runtime.distributed import DistributedContext, started_alone
from meta_train.runtime.seeding import seeded
from meta_train.runtime.signals import Interrupted, TrainingStalled, stop_signals
from meta_train.tasks.base import TaskFamily
from meta_train.tasks.describe import describe


class MetaTrainer:
    """Meta-trains a rule, an initialisation, or both, on a family of tasks.

    Examples:
        >>> task = ModuleTask(lambda: nn.Linear(3, 1), nn.functional.mse_loss, (inputs, targets))
        >>> trainer = MetaTrainer(create_rule("adam-lstm"), task, TrainSettings(outer_steps=100))
        >>> rule = trainer.train()
        >>> optimizer = LearnedOptimizer(model.parameters(), rule=rule)

    Args:
        rule: the update rule; trained in place.
        family: inner problems.
        settings: see `TrainSettings`.
        initialization: the initialisation to learn, by parameter name; None starts each inner run
            from the parameters of its problem.
        folder: folder for `checkpoints/` and `tensorboard/`, `~` is the home folder; None writes
            nothing.
        device: device of inner training; "auto" is the accelerator if there is one.
        validate: a `Validator`, or a function that returns a validation loss of meta-parameters;
            lower is better. The best average is kept. None keeps the last average.
        distributed: the processes that share the runs, from `joined`
            (meta_train.runtime.distributed); None for a process that is alone.

    Attributes:
        outer_step: outer steps taken.
        seconds: duration of `train` so far, resumed runs included.
        diverged: inner runs that diverged so far.

    Raises:
        TypeError: not a folder, a device or processes; the message names the argument.
        ValueError: an argument of another kind, nothing to train, settings that contradict each
            other, or several processes of `torchrun` without `distributed`.
    """

    def __init__(
        self,
        rule: UpdateRule,
        family: TaskFamily,
        settings: TrainSettings,
        *,
        initialization: Mapping[str, Tensor] | None = None,
        folder: str | PathLike[str] | None = None,
        device: torch.device | str = "auto",
        validate: Validator | Callable[[MetaParameters], float] | None = None,
        distributed: DistributedContext | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.distributed = started_alone() if distributed is None else distributed
        parts = build_parts(
            rule,
            family,
            settings,
            initialization=initialization,
            device=self.device,
            distributed=self.distributed,
        )
        self._console = Console(self.distributed.first)
        for note in parts.notes:
            self._console.say(note)
        self.settings = parts.settings
        self.rule = rule
        self.meta_parameters = parts.meta_parameters
        self.estimator = parts.estimator
        self.groups = parts.groups
        self.loop_settings = parts.loop_settings
        self.meta_optimizer = MetaOptimizer(parts.meta_parameters, parts.settings)
        self.validate = as_validator(validate)
        self.selection = ModelSelection(self.average, parts.settings.patience)
        self.folder = folder
        self.logger: TensorBoardLogger | None = None
        self.outer_step = 0
        self.seconds = 0.0
        self.diverged = 0
        self._parts = parts
        self._state = StatefulParts(
            parts.meta_parameters,
            self.meta_optimizer,
            self.selection,
            parts.groups,
            self.distributed,
            parts.c_library,
        )

    @property
    def folder(self) -> Path | None:
        """The run folder; None writes nothing. It may be set later."""
        return self._folder

    @folder.setter
    def folder(self, folder: str | PathLike[str] | None) -> None:
        self._folder = None if folder is None else expand(folder, "folder")
        self.checkpoints: Checkpoints | None = None
        if self._folder is not None:
            self.checkpoints = Checkpoints(
                self._folder / "checkpoints", self.settings.keep_checkpoints, self.distributed
            )

    @property
    def _how_to_continue(self) -> str:
        return "" if self.checkpoints is None else self.checkpoints.how_to_continue

    @property
    def average(self) -> MetaParameters:
        """The moving average of the meta-parameters."""
        return self.meta_optimizer.average

    @property
    def best(self) -> MetaParameters:
        """The average with the lowest validation loss; the initial one before any validation."""
        return self.selection.best

    @property
    def best_value(self) -> float:
        """The lowest validation loss; infinite before any validation."""
        return self.selection.best_value

    @property
    def kept(self) -> MetaParameters:
        """The result: `best` if there is a validation, else `average`."""
        return self.average if self.validate is None else self.best

    def train(self, *, progress: bool = True) -> UpdateRule:
        """Train to the end.

        Args:
            progress: show a progress bar.

        Returns:
            The trained rule, `kept.rule`.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the current outer step is completed and saved first.
            TrainingStalled: too many skipped outer steps in a row; a checkpoint is written.
            ValueError: the folder holds checkpoints of another run, and `resume` was not called.
        """
        if self.checkpoints is not None:
            self.checkpoints.check_own()
        reason = self.reason_to_stop()
        if reason is None and self.outer_step > 0 and self.seconds >= self._time_limit:
            reason = self._time_is_over
        if reason is not None:
            self._console.say(f"nothing to train after outer step {self.outer_step}: {reason}")
            self._finish()
            return self.kept.rule
        began = time.monotonic() - self.seconds
        with stop_signals() as stop, self._logging():
            reason = self._prepare()
            with self._console.progress_bar(
                self.outer_step, self.settings.outer_steps, show=progress
            ) as bar:
                while reason is None:
                    late = self.seconds >= self._time_limit
                    record = self.take_outer_step(stop=bool(stop), late=late)
                    self.seconds = time.monotonic() - began
                    self._console.advance(bar, record, self._time_limit - self.seconds)
                    self._after_step(record)
                    if record.estimate.stop:
                        break
                    reason = self.reason_to_stop()
                    if reason is None and record.estimate.late:
                        reason = self._time_is_over
            if self.checkpoints is not None and self.checkpoints.written_at != self.outer_step:
                self.save()
            if reason is not None:
                self._finish(reason)
            if reason is None or stop:
                name = stop[0] if stop else "a signal to another process"
                what = f"stopped by {name} after outer step {self.outer_step}"
                raise Interrupted(what, self._how_to_continue)
        return self.kept.rule

    def reason_to_stop(self) -> str | None:
        """Why no outer step is left to take; None if one is left."""
        if self.outer_step >= self.settings.outer_steps:
            return "all outer steps are taken"
        if self.selection.patience_is_over:
            return f"no better validation in the last {self.settings.patience}"
        return None

    def take_outer_step(self, *, stop: bool = False, late: bool = False) -> OuterStepRecord:
        """Estimate the meta-gradient and update the meta-parameters. All processes must call it.

        Args:
            stop: this process received a stop signal; the record tells all processes.
            late: this process reached its time limit; the record tells all processes.

        Raises:
            ValueError: a negative loss with an objective that needs positive ones.
        """
        reduced = reduced_estimate(
            self._parts, self.outer_step, self.distributed, self._console, stop=stop, late=late
        )
        self.diverged += reduced.diverged
        self.outer_step += 1
        norm = self.meta_optimizer.step(
            reduced.gradients, self.outer_step, useful=reduced.counted > 0
        )
        return self._record(reduced, norm)

    def _record(self, estimate: ReducedEstimate, norm: float) -> OuterStepRecord:
        return OuterStepRecord(
            outer_step=self.outer_step,
            estimate=estimate,
            gradient_norm=norm,
            learning_rate=self.meta_optimizer.learning_rate(self.outer_step),
            horizon=self.groups.mean_horizon(),
            families=tuple(member.name for member in self.groups.members),
            diverged=self.diverged,
            skipped=self.meta_optimizer.skipped,
        )

    def _prepare(self) -> str | None:
        """Save at step 0, or make up for a validation; returns a reason to stop."""
        if self.outer_step == 0:
            self.save()  # so that a run that is killed before its next checkpoint can be resumed
        elif self.outer_step % self.settings.validate_every == 0:
            self._validate_average()  # the run was killed between its checkpoint and this
        return self.reason_to_stop()

    def _after_step(self, record: OuterStepRecord) -> None:
        """Check, log, validate, save."""
        step, settings = self.outer_step, self.settings
        self._stop_if_stalled(record)
        if self.logger is not None:
            self.logger.log_step(record, self.seconds)
            if self.logger.gates_due(step):
                self._log_gates(self.logger)
        if step % settings.validate_every == 0 and step < settings.outer_steps:
            self._validate_average()
        if step % settings.checkpoint_every == 0:
            self.save()

    def _stop_if_stalled(self, record: OuterStepRecord) -> None:
        limit = self.settings.max_consecutive_skips
        stalled = why_stalled(record, self.meta_optimizer.skipped_in_a_row, limit)
        if stalled is not None:
            self.save()
            raise TrainingStalled(stalled, self._how_to_continue)

    def _log_gates(self, logger: TensorBoardLogger) -> None:
        run = fresh_run(self.groups.runs[0], self.loop_settings, self.outer_step, self.device)
        logger.log_gates(self.rule, run, self.outer_step)

    def _validate_average(self) -> None:
        """Validate the average, once per outer step; the best one is kept."""
        validate = self.validate
        if validate is None or self.selection.validated_at == self.outer_step:
            return
        with seeded(self.device, self.settings.seed, "validation"):
            value = self.distributed.from_first(lambda: float(validate(self.average)))
        if self.logger is not None:
            self.logger.log_validation(value, self.outer_step, validate.figure)
        self.selection.update(self.average, value, self.outer_step)

    def _finish(self, reason: str | None = None) -> None:
        """Say why training ended before its last step; validate once more."""
        total = self.settings.outer_steps
        if reason is not None and self.outer_step < total:
            self._console.say(f"stopped at outer step {self.outer_step} of {total}: {reason}")
        self._validate_average()

    @property
    def _time_limit(self) -> float:
        return 60 * self.settings.max_minutes  # seconds

    @property
    def _time_is_over(self) -> str:
        return f"the time limit of {self.settings.max_minutes:g} minutes (max_minutes) is reached"

    @contextmanager
    def _logging(self) -> Iterator[None]:
        """Write TensorBoard events in the first process, if there is a folder."""
        if self.folder is not None and self.distributed.first:
            folder, every = self.folder / "tensorboard", self.settings.gates_every
            self.logger = TensorBoardLogger(folder, every, self.outer_step)
        try:
            yield
        finally:
            if self.logger is not None:
                self.logger.close()
                self.logger = None

    def save(self) -> None:
        """Write a checkpoint; without a folder, do nothing. All processes must call it.

        Raises:
            OSError: the disk is full, for example; earlier checkpoints stay as they are.
            ValueError: the folder holds checkpoints of another run, and `resume` was not called.
        """
        if self.checkpoints is None:
            return
        if self.logger is not None:
            self.logger.flush()
        self.checkpoints.write(self.outer_step, self.state_dict(), self._made_with)

    def resume(self) -> bool:
        """Continue from the newest checkpoint of the folder, with any number of processes.

        Says so if another C library computes now than before: the last digits depend on it.

        Returns:
            Whether there is a checkpoint.

        Raises:
            ValueError: the checkpoint is damaged, or made with another rule, another task or other
                settings.
        """
        if self.checkpoints is None:
            return False
        return self.checkpoints.load_newest(self._made_with, self._load_or_explain)

    def _load_or_explain(self, state: TrainingState) -> str | None:
        """Load a state; why it is damaged, if it is."""
        loaded = self._state.load_or_explain(state)
        if isinstance(loaded, str):
            return loaded
        self._restore_counters(loaded)
        note = library_changed(state.facts.get("c_library"), self._parts.c_library)
        if note is not None:
            self._console.say(note)
        return None

    def state_dict(self) -> TrainingState:
        """The whole state; see `StatefulParts`. All processes must call it.

        Returns:
            The state of all processes in the first one; other processes lack the inner runs of the
            rest.
        """
        return self._state.save(Counters(self.outer_step, self.seconds, self.diverged))

    def load_state_dict(self, state: TrainingState) -> None:
        """Restore a state that `state_dict` returned in the first of any number of processes."""
        self._restore_counters(self._state.load(state))

    def _restore_counters(self, counters: Counters) -> None:
        """Count on from a saved state."""
        self.outer_step = counters.outer_step
        self.seconds = counters.seconds
        self.diverged = counters.diverged

    def _made_with(self) -> dict[str, Any]:
        """Facts that a resumed run must share."""
        return {
            **self.settings.fixed_on_resume(),
            "rule": rule_name(self.rule),
            "rule_settings": self.rule.settings,
            "task": describe(self.groups.family),
            "task's tensors": self.groups.shapes(),
            "validation": None if self.validate is None else self.validate.describe(),
        }
