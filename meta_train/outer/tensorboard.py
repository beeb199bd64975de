"""What a meta-training shows in TensorBoard."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree
from torch.utils.tensorboard.writer import SummaryWriter

from learned_opt.monitoring.monitor import GateMonitor
from learned_opt.rules.base import Context
from meta_train.inner.state import map_states
from meta_train.outer.reduce import Reduced
from meta_train.outer.settings import TrainSettings
from meta_train.runtime.seeding import own_randomness
from meta_train.tasks.base import Batch

if TYPE_CHECKING:
    from meta_train.outer.trainer import MetaTrainer

LOG_EVERY = 10
"""Outer steps from one entry to the next; losses and norms are means over them."""


class TensorBoardLogger:
    """Writes scalars, gates and curves; of several processes, the first one's alone.

    Losses, counts and throughput are of all processes together; the horizon and the gates are of
    the first process's runs. A disk that is full ends the watching, with a warning, but not the
    meta-training, whose checkpoints say for themselves when they cannot be written.

    Args:
        folder: of the events.
        settings: how often.
        done: outer steps taken before. What an earlier process wrote of later ones, which are now
            taken again, no longer counts.
    """

    def __init__(self, folder: Path, settings: TrainSettings, done: int = 0) -> None:
        self.folder = folder
        self.settings = settings
        self.writer: SummaryWriter | None = None
        self.monitor: GateMonitor | None = None
        self.logged_at: float | None = None
        self.inner_steps = 0
        self.recent: defaultdict[str, list[float]] = defaultdict(list)
        with self._forgiving():
            self.writer = SummaryWriter(str(folder), purge_step=done + 1)
            if settings.gates_every:
                self.monitor = GateMonitor(self.writer, every=1, heat_map_every=10)

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            warnings.warn(
                f"could not write to {self.folder}: {error.strerror or error}; meta-training goes "
                "on without TensorBoard",
                stacklevel=3,
            )
            self.writer = self.monitor = None

    def flush(self) -> None:
        """Write what is pending: before a checkpoint, so that a killed run leaves no gap."""
        with self._forgiving():
            if self.writer is not None:
                self.writer.flush()

    def close(self) -> None:
        """Finish the files."""
        with self._forgiving():
            if self.monitor is not None:
                self.monitor.close()
            if self.writer is not None:
                self.writer.close()

    def step(self, trainer: MetaTrainer, reduced: Reduced, norm: float) -> None:
        """Show an outer step."""
        if self.writer is None:
            return
        step = trainer.outer_step
        self.inner_steps += reduced.inner_steps
        self._collect(trainer, reduced, norm)
        with self._forgiving():
            if step % LOG_EVERY == 0:
                for name, value in self._scalars(trainer).items():
                    self.writer.add_scalar(name, value, step)
            if self.monitor is not None and step % self.settings.gates_every == 0:
                self._observe_gates(trainer, self.monitor)

    def _collect(self, trainer: MetaTrainer, reduced: Reduced, norm: float) -> None:
        if reduced.counted:
            self.recent["meta/loss"].append(reduced.meta_loss)
            self.recent["meta/mean_inner_loss"].append(reduced.mean_loss)
        if math.isfinite(norm):
            self.recent["meta/gradient_norm"].append(norm)
        for member, loss in zip(trainer.groups.members, reduced.group_losses, strict=True):
            if not math.isnan(loss):
                self.recent[f"family/{member.name}"].append(loss)

    def _scalars(self, trainer: MetaTrainer) -> dict[str, float]:
        scalars = {name: sum(values) / len(values) for name, values in self.recent.items()}
        self.recent.clear()
        scalars["meta/lr"] = trainer.meta_optimizer.rate(trainer.outer_step)
        scalars["meta/diverged"] = trainer.diverged
        scalars["meta/skipped"] = trainer.meta_optimizer.skipped
        scalars["meta/horizon"] = trainer.groups.mean_horizon()
        since, self.logged_at = self.logged_at, trainer.seconds
        if since is not None and trainer.seconds > since:
            scalars["meta/inner_steps_per_second"] = self.inner_steps / (trainer.seconds - since)
        self.inner_steps = 0
        return scalars

    def validation(self, value: float, step: int, validate: Callable[..., Any]) -> None:
        """Show a validation, and its curves where the validator keeps them."""
        if self.writer is None:
            return
        figure = getattr(validate, "figure", None)
        with self._forgiving():
            self.writer.add_scalar("validation/loss", value, step)
            if figure is not None:
                self.writer.add_figure("validation/curves", figure(), step)

    def _observe_gates(self, trainer: MetaTrainer, monitor: GateMonitor) -> None:
        """Show the monitor what the rule would do next in the first of the runs.

        Where an outer step takes whole runs they have ended by now: the first one is taken again,
        each time to the step after that of the last time.
        """
        runs = trainer.groups.runs[0]
        loop = runs.bind(trainer.loop)
        total = loop.total_steps
        if isinstance(total, torch.Tensor):
            loop = replace(loop, total_steps=total[:1])
        stream = runs.stream(trainer.outer_step)
        inner = map_states(lambda tensor: tensor[:1], runs.inner)
        if not trainer.estimator.continues:
            if not runs.lengths[0]:
                return  # there is no inner step
            shown = trainer.outer_step // self.settings.gates_every - 1
            inner = runs.first_begins()
            quick = replace(loop, differentiable=False)
            with own_randomness(trainer.device):
                for _ in range(shown % runs.lengths[0]):
                    inner, _ = quick.step(inner, _first(stream.next()))
        losses, gradients = loop.gradients(inner, _first(stream.next()))
        names = list(inner.parameters)
        planned = loop.total_steps[0] if isinstance(loop.total_steps, torch.Tensor) else None
        with torch.no_grad():
            monitor.observe(
                trainer.rule,
                names,
                [gradients[name][0] for name in names],
                [inner.parameters[name][0] for name in names],
                [{k: v[0] for k, v in inner.states[name].items()} for name in names],
                Context(loss=losses[0], total_steps=planned),
                trainer.outer_step,
            )


def _first(batch: Batch) -> Batch:
    """That of the first run, `[1, ...]`."""
    return pytree.tree_map(lambda tensor: tensor[:1], batch)
