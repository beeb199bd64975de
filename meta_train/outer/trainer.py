"""The outer loop: meta-gradients into meta-parameters, watched, saved, resumable, stoppable."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from learned_opt.rules.base import UpdateRule
from meta_train.estimators import MetaObjective, create_estimator
from meta_train.estimators.memory_budget import fit
from meta_train.estimators.objectives import ANY_SIGN, OBJECTIVES
from meta_train.inner.groups import Groups
from meta_train.inner.imitation import create_teacher
from meta_train.inner.loop import InnerLoop
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs import RunPlan
from meta_train.outer.checkpoint import load_newest, save_snapshot
from meta_train.outer.meta_optimizer import MetaOptimizer
from meta_train.outer.progress import Progress
from meta_train.outer.reduce import Reduced, reduce_estimates
from meta_train.outer.settings import DTYPES, TrainSettings
from meta_train.outer.tensorboard import TensorBoardLogger
from meta_train.runtime.device import choose_device
from meta_train.runtime.distributed import DistributedContext
from meta_train.runtime.seeding import generator, seeded
from meta_train.runtime.signals import Interrupted, TrainingStalled, stop_signals
from meta_train.tasks.base import TaskFamily


class MetaTrainer:
    """Meta-trains a rule, an initialisation, or both, on a family of tasks.

    Args:
        rule: is trained in place.
        family: inner problems.
        settings: see `TrainSettings`.
        initialization: where inner training starts, by parameter name, to be learned too; None
            starts where each problem says.
        folder: gets `checkpoints/` and `tensorboard/`; None writes nothing.
        device: where inner training runs; by default the GPU where there is one.
        validate: returns a validation loss of meta-parameters on tasks outside meta-training;
            lower is better. The best meta-parameters are kept; None keeps the last average.
        distributed: the processes that share the runs.

    Raises:
        ValueError: nothing to train, or settings that do not go together.
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
        validate: Callable[[MetaParameters], float] | None = None,
        distributed: DistributedContext | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.distributed = distributed or DistributedContext()
        if settings.memory != "plain":

            def make(plain: TrainSettings) -> MetaTrainer:
                shared = {
                    "initialization": initialization,
                    "device": device,
                    "distributed": distributed,
                }
                return MetaTrainer(rule, family, plain, **shared)  # type: ignore[arg-type]

            settings, choice = fit(settings, make)
            self._say(str(choice))
        self.settings = settings
        dtype = DTYPES[settings.dtype]
        self.rule = rule.to(self.device, dtype).requires_grad_(True)
        self.meta_parameters = MetaParameters(rule, initialization).to(self.device, dtype)
        if initialization and settings.param_rescale_range:
            raise ValueError("a learned initialisation needs param_rescale_range=0")
        self.estimator = create_estimator(settings.estimator, **settings.estimator_settings)
        self.estimator.check(self.meta_parameters)
        self.meta_optimizer = MetaOptimizer(self.meta_parameters, settings)
        self.best = copy.deepcopy(self.meta_optimizer.average)
        self.best_value = math.inf
        self.validations_without_best = 0
        self.validate = validate
        self.folder = None if folder is None else Path(folder)
        teacher = create_teacher(settings.imitate, settings.imitate_lr, self.device, dtype)
        plan = RunPlan(
            horizons=settings.planned_horizons(),
            truncation_length=settings.truncation_length if self.estimator.continues else None,
            copies=self.estimator.copies,
            restart=settings.restart,
            dtype=None if dtype == torch.float32 else dtype,
            teacher=teacher,
            vectorize=settings.vectorize,
        )
        self.groups = Groups(
            self.meta_parameters,
            family,
            plan,
            groups=settings.groups,
            runs=settings.runs,
            param_rescale_range=settings.param_rescale_range,
            loss_rescale_range=settings.loss_rescale_range,
            seed=settings.seed,
            distributed=self.distributed,
            device=self.device,
        )
        second_order = settings.second_order
        if second_order is None:
            second_order = rule.second_order or bool(initialization)
        if self.estimator.second_order is not None:
            second_order = self.estimator.second_order
        self.loop = InnerLoop(
            rule,
            _unset_loss,
            vectorize=True,
            lr=settings.inner_lr,
            second_order=second_order,
            teacher=teacher,
        )
        self.outer_step = 0
        self.seconds = 0.0
        self.diverged = 0
        self.logger: TensorBoardLogger | None = None
        self.validated_at = self.saved_at = -1
        self.said: set[tuple[str, bool]] = set()

    @property
    def average(self) -> MetaParameters:
        """The moving average of the meta-parameters."""
        return self.meta_optimizer.average

    @property
    def kept(self) -> MetaParameters:
        """The meta-parameters to keep: the average at its best validation, or the last one."""
        return self.average if self.validate is None else self.best

    def train(self, *, progress: bool = True) -> UpdateRule:
        """Run to the end.

        Returns:
            The rule to keep, `kept.rule`.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, after the outer step in hand was finished and saved.
            TrainingStalled: too many skipped outer steps in a row; a checkpoint is written.
        """
        settings = self.settings
        if self.reason_to_stop() is not None or (self.outer_step and self._late()):
            self._finish()
            return self.kept.rule
        if self.folder is not None and self.distributed.first:
            self.logger = TensorBoardLogger(self.folder / "tensorboard", settings, self.outer_step)
        bar = Progress(
            self.outer_step, settings.outer_steps, show=progress and self.distributed.first
        )
        began = time.monotonic() - self.seconds
        with stop_signals() as stop:
            try:
                reason, stopped = None, False
                if self.outer_step == 0:
                    self.save()  # a run that is killed before the next one can be resumed, too
                elif self.outer_step % settings.validate_every == 0:
                    self._consider_average()  # a run that ended here did so after its checkpoint
                    reason = self.reason_to_stop()
                with bar:
                    while reason is None:
                        reduced, norm = self._take_outer_step(stop=bool(stop), late=self._late())
                        self.seconds = time.monotonic() - began
                        bar.step(self._shown(reduced), 60 * settings.max_minutes - self.seconds)
                        self._after_step(reduced, norm)
                        reason = self.reason_to_stop()
                        if reason is None and reduced.late:
                            reason = f"{settings.max_minutes:g} minutes are over"
                        stopped = reduced.stop
                        if stopped:
                            break
                if self.saved_at != self.outer_step:
                    self.save()
                if not stopped:
                    self._finish(reason)
                if stopped or stop:
                    name = stop[0] if stop else "a signal to another process"
                    raise Interrupted(f"stopped by {name} after step {self.outer_step}")
            finally:
                if self.logger is not None:
                    self.logger.close()
                    self.logger = None
        return self.kept.rule

    def reason_to_stop(self) -> str | None:
        """Why there is no outer step to take from here; None where there is one."""
        patience = self.settings.patience
        if self.outer_step >= self.settings.outer_steps:
            return "all are taken"
        if patience and self.validations_without_best >= patience:
            return f"no better validation in the last {patience}"
        return None

    def _late(self) -> bool:
        return self.seconds >= 60 * self.settings.max_minutes

    def _finish(self, reason: str | None = None) -> None:
        total = self.settings.outer_steps
        if reason is not None and self.outer_step < total:
            self._say(f"stopped at outer step {self.outer_step} of {total}: {reason}")
        self._consider_average()

    def _say(self, text: str) -> None:
        if self.distributed.first:
            tqdm.write(text)

    def _say_choices(self) -> None:
        """Say once for each family how its inner runs are run, where there was a choice."""
        for member, runs in zip(self.groups.members, self.groups.runs, strict=True):
            choice = runs.chosen
            if choice is not None and (member.name, choice.vectorize) not in self.said:
                self.said.add((member.name, choice.vectorize))
                how = "at once" if choice.vectorize else "one by one"
                self._say(f"{member.name}: inner runs go {how} ({choice.reason})")

    def _shown(self, reduced: Reduced) -> dict[str, str]:
        shown = {"meta-loss": f"{reduced.meta_loss:.4f}" if reduced.counted else "none"}
        if self.diverged:
            shown["diverged"] = str(self.diverged)
        return shown

    def _take_outer_step(self, *, stop: bool = False, late: bool = False) -> tuple[Reduced, float]:
        settings = self.settings
        progress = self.outer_step / max(settings.outer_steps, 1)
        self.groups.prepare(self.outer_step, progress)
        start, end = settings.imitate_weight
        meta_objective = MetaObjective(
            OBJECTIVES[settings.objective],
            settings.objective_data,
            0.0 if settings.imitate is None else start + (end - start) * progress,
        )
        hidden = generator(settings.seed, "hide loss", self.outer_step)
        loop = self.loop
        if settings.hide_loss and float(torch.rand((), generator=hidden)) < settings.hide_loss:
            loop = loop.without_loss()
        step, distributed = self.outer_step, self.distributed
        estimates = [
            self.estimator.estimate(
                self.meta_parameters, loop, runs, meta_objective, step, distributed
            )
            for runs in self.groups.runs
        ]
        self._say_choices()
        reduced = reduce_estimates(estimates, distributed, stop=stop, late=late)
        if settings.objective not in ANY_SIGN and reduced.mean_loss < 0:
            raise ValueError(
                f"the inner loss is negative, objective {settings.objective!r} needs it positive: "
                'set objective="sum"'
            )
        self.diverged += reduced.diverged
        self.outer_step += 1
        norm = self.meta_optimizer.step(
            reduced.gradients, self.outer_step, useful=reduced.counted > 0
        )
        if self.meta_optimizer.skipped_in_a_row >= settings.max_consecutive_skips:
            self.save()
            raise TrainingStalled(
                f"stopped after outer step {self.outer_step}: the last "
                f"{settings.max_consecutive_skips} meta-gradients were not finite, outliers, or of "
                f"diverged runs only (norm {norm:g}; {reduced.diverged} runs diverged in the last "
                "one). A lower lr, a shorter horizon or estimator es may help"
            )
        return reduced, norm

    def _after_step(self, reduced: Reduced, norm: float) -> None:
        """Log, validate, save."""
        step, settings = self.outer_step, self.settings
        if self.logger is not None:
            self.logger.step(self, reduced, norm)
        if step % settings.validate_every == 0 and step < settings.outer_steps:
            self._consider_average()
        if step % settings.checkpoint_every == 0:
            self.save()

    def _consider_average(self) -> None:
        """Evaluate the averaged weights on validation tasks; keep them if they are the best."""
        validate = self.validate
        if validate is None or self.validated_at == self.outer_step:
            return
        with seeded(self.device, self.settings.seed, "validation"):
            value = self.distributed.from_first(lambda: validate(self.average))
        if self.logger is not None:
            self.logger.validation(value, self.outer_step, validate)
        self.validated_at = self.outer_step
        self.validations_without_best += 1
        if value < self.best_value or not math.isfinite(self.best_value):
            self.best_value = value
            self.validations_without_best = 0
            self.best.load_state_dict(self.average.state_dict())

    def save(self) -> None:
        """Write a checkpoint (nothing, if there is no folder). All processes must call it.

        Raises:
            OSError: the disk is full, say; earlier checkpoints stand.
        """
        if self.folder is None:
            return
        if self.logger is not None:
            self.logger.flush()
        save_snapshot(self, self.folder / "checkpoints")
        self.saved_at = self.outer_step

    def resume(self) -> bool:
        """Go on from the newest checkpoint of the folder, by any number of processes.

        Returns:
            Whether there was one.

        Raises:
            ValueError: the checkpoint is damaged, or of another rule or other settings of it.
        """
        return self.folder is not None and load_newest(self, self.folder / "checkpoints")


def _unset_loss(*_: object) -> tuple[Tensor, dict[str, Tensor]]:
    raise RuntimeError("the loss comes from the runs: InnerLoop is equipped by Runs.equip")
