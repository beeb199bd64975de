"""The outer loop: meta-gradients into a rule's weights, watched, saved, resumable, stoppable."""

from __future__ import annotations

import copy
import json
import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter
from tqdm import tqdm

from learned_opt.monitor import GateMonitor
from learned_opt.rules import rule_name
from learned_opt.rules.base import Context, UpdateRule
from meta_train.checkpoint import list_checkpoints, read_checkpoint, write_checkpoint
from meta_train.device import choose_device
from meta_train.estimators import Estimate, truncated_backprop
from meta_train.objectives import OBJECTIVES
from meta_train.runs import Runs
from meta_train.settings import TrainSettings
from meta_train.stopping import Interrupted, stop_signals
from meta_train.tasks import Task
from meta_train.tasks.reparametrized import Reparametrized
from meta_train.unroll import InnerLoop

LOG_EVERY = 10
"""Outer steps from one TensorBoard entry to the next."""


class MetaTrainer:
    """Meta-trains a rule on a task by truncated backpropagation through training.

    Args:
        rule: is trained in place.
        task: inner problems.
        settings: see `TrainSettings`.
        folder: gets `checkpoints/` and, through `writer`, TensorBoard events; None writes nothing.
        device: where inner training runs; by default the GPU where there is one.
        validate: `rule -> number` to be small, on tasks that are not meta-trained on; picks the
            weights to keep. None keeps the last average.
    """

    def __init__(
        self,
        rule: UpdateRule,
        task: Task,
        settings: TrainSettings,
        *,
        folder: str | PathLike[str] | None = None,
        device: torch.device | str = "auto",
        validate: Callable[[UpdateRule], float] | None = None,
    ) -> None:
        self.settings = settings
        self.device = choose_device(device)
        self.rule = rule.to(self.device).requires_grad_(True)
        if not list(rule.parameters()):
            raise ValueError(f"rule {rule_name(rule)!r} has no weights to meta-train")
        self.average = copy.deepcopy(self.rule).requires_grad_(False)
        self.best = copy.deepcopy(self.average)
        self.best_value = math.inf
        self.validate = validate
        self.folder = None if folder is None else Path(folder)
        self.meta_optimizer = torch.optim.Adam(self.rule.parameters(), settings.lr, (0.9, 0.99))
        self.runs = Runs(
            self.rule,
            Reparametrized(task, settings.unit_spread) if settings.unit_spread else task,
            count=settings.runs,
            horizons=settings.horizons,
            window=settings.window,
            seed=settings.seed,
            device=self.device,
        )
        self.loop = InnerLoop(
            self.rule,
            self.runs.problems[0].loss,
            vectorize=True,
            second_order=(
                rule.second_order if settings.second_order is None else settings.second_order
            ),
        )
        self.outer_step = 0
        self.seconds = 0.0
        self.diverged = 0
        self.skipped = 0
        self.recent_norms: deque[float] = deque(maxlen=41)
        self.smooth_loss = math.nan
        self.logged_at: float | None = None
        self.monitor: GateMonitor | None = None

    def train(self, *, progress: bool = True) -> UpdateRule:
        """Run to the end.

        Returns:
            The rule to keep: the average of weights at its best validation.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, after the outer step in hand was finished and saved.
        """
        settings = self.settings
        writer = None if self.folder is None else SummaryWriter(str(self.folder / "tensorboard"))
        if writer is not None and settings.gates_every:
            self.monitor = GateMonitor(writer, every=1, heat_map_every=10)
        bar = tqdm(
            total=settings.outer_steps,
            initial=self.outer_step,
            desc="meta-training",
            unit="step",
            dynamic_ncols=True,
            disable=not progress,
        )
        began = time.monotonic() - self.seconds
        try:
            with bar, stop_signals() as stop:
                while self.outer_step < settings.outer_steps:
                    self.seconds = time.monotonic() - began
                    if self.seconds >= 60 * settings.max_minutes:
                        tqdm.write(
                            f"stopped at outer step {self.outer_step} of {settings.outer_steps}: "
                            f"{settings.max_minutes:g} minutes are over"
                        )
                        break
                    estimate, norm = self._take_outer_step()
                    bar.update()
                    bar.set_postfix(self._shown(estimate), refresh=False)
                    self._after_step(estimate, norm, writer)
                    if stop:
                        self.save()
                        raise Interrupted(f"stopped by {stop[0]} after step {self.outer_step}")
            self.save()
            self._consider_average(writer)
        finally:
            if self.monitor is not None:
                self.monitor.close()
            if writer is not None:
                writer.close()
        return self.best if self.validate is not None else self.average

    def _shown(self, estimate: Estimate) -> dict[str, str]:
        loss = float(estimate.meta_loss)
        if math.isnan(self.smooth_loss):
            self.smooth_loss = loss
        self.smooth_loss += 0.05 * (loss - self.smooth_loss)
        shown = {"meta-loss": f"{self.smooth_loss:.4f}"}
        if self.diverged:
            shown["diverged"] = str(self.diverged)
        return shown

    def _take_outer_step(self) -> tuple[Estimate, float]:
        settings = self.settings
        objective = OBJECTIVES[settings.objective]
        estimate = truncated_backprop(self.loop, self.runs, self.outer_step, objective)
        norm = float(torch.nn.utils.get_total_norm(estimate.gradients))
        if settings.objective != "sum" and float(estimate.mean_loss) < 0:
            raise ValueError(
                f"the inner loss is negative, objective {settings.objective!r} needs it positive: "
                'set objective="sum"'
            )
        self.diverged += estimate.diverged
        self.outer_step += 1
        if self._is_outlier(norm):
            self.skipped += 1
        else:
            shrink = min(1.0, settings.clip / max(norm, 1e-12))
            for weight, gradient in zip(self.rule.parameters(), estimate.gradients, strict=True):
                weight.grad = gradient * shrink
            for group in self.meta_optimizer.param_groups:
                group["lr"] = self._lr()
            self.meta_optimizer.step()
        decay = min(settings.averaging, self.outer_step / (self.outer_step + 10))
        with torch.no_grad():
            for mean, weight in zip(self.average.parameters(), self.rule.parameters(), strict=True):
                mean.lerp_(weight, 1 - decay)
        return estimate, norm

    def _is_outlier(self, norm: float) -> bool:
        if not math.isfinite(norm):
            return True
        self.recent_norms.append(norm)
        return norm > self.settings.outlier * statistics.median(self.recent_norms)

    def _lr(self) -> float:
        settings = self.settings
        gone = self.outer_step / settings.outer_steps
        cosine = settings.lr_end + (1 - settings.lr_end) * (1 + math.cos(math.pi * gone)) / 2
        return settings.lr * min(1.0, self.outer_step / 20) * cosine

    def _after_step(self, estimate: Estimate, norm: float, writer: SummaryWriter | None) -> None:
        step, settings = self.outer_step, self.settings
        if writer is not None and step % LOG_EVERY == 0:
            scalars = {
                "meta/loss": float(estimate.meta_loss),
                "meta/mean_inner_loss": float(estimate.mean_loss),
                "meta/gradient_norm": norm,
                "meta/lr": self.meta_optimizer.param_groups[0]["lr"],
                "meta/diverged": self.diverged,
                "meta/skipped": self.skipped,
            }
            since, self.logged_at = self.logged_at, self.seconds
            if since is not None:
                inner_steps = LOG_EVERY * estimate.inner_steps
                scalars["meta/inner_steps_per_second"] = inner_steps / (self.seconds - since)
            for name, value in scalars.items():
                writer.add_scalar(name, value, step)
        if self.monitor is not None and step % settings.gates_every == 0:
            self._observe_gates(self.monitor)
        if step % settings.validate_every == 0 and step < settings.outer_steps:
            self._consider_average(writer)
        if step % settings.checkpoint_every == 0:
            self.save()

    def _observe_gates(self, monitor: GateMonitor) -> None:
        """Show the monitor what the rule would do next in the first of the runs."""
        names, tensors = list(self.runs.inner.parameters), self.runs.inner
        batch = self.runs.batches(self.outer_step, 1)[0]
        losses, gradients = self.loop.gradients(tensors, batch)
        monitor.observe(
            self.rule,
            names,
            [gradients[name][0] for name in names],
            [tensors.parameters[name][0] for name in names],
            [{k: v[0] for k, v in tensors.states[name].items()} for name in names],
            Context(loss=losses[0]),
            self.outer_step,
        )

    def _consider_average(self, writer: SummaryWriter | None) -> None:
        """Evaluate the averaged weights on validation tasks; keep them if they are the best."""
        if self.validate is None:
            return
        value = self.validate(self.average)
        if writer is not None:
            writer.add_scalar("validation/loss", value, self.outer_step)
        if value < self.best_value or self.best_value == math.inf:
            self.best_value = value
            self.best.load_state_dict(self.average.state_dict())

    def save(self) -> None:
        """Write a checkpoint (nothing, if there is no folder)."""
        if self.folder is None:
            return
        inner, run_facts = self.runs.state_dict()
        tensors = {f"inner/{key}": value for key, value in inner.items()}
        for part in ("rule", "average", "best"):
            for key, value in getattr(self, part).state_dict().items():
                tensors[f"{part}/{key}"] = value
        for index, state in self.meta_optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"meta_optimizer/{index}/{key}"] = value
        facts = {
            "outer_step": self.outer_step,
            "seconds": self.seconds,
            "best_value": self.best_value,
            "diverged": self.diverged,
            "skipped": self.skipped,
            "recent_norms": list(self.recent_norms),
            "runs": run_facts,
            "made_with": self._made_with(),
        }
        write_checkpoint(self.folder / "checkpoints", self.outer_step, tensors, facts)

    def _made_with(self) -> dict[str, Any]:
        """What must be the same when a run is resumed; its length may change."""
        settings = asdict(self.settings)
        for name in ("outer_steps", "max_minutes", "checkpoint_every", "gates_every"):
            del settings[name]
        shapes = {k: list(v.shape) for k, v in self.runs.inner.parameters.items()}
        rule = {"rule": rule_name(self.rule), "rule_settings": self.rule.settings}
        # Through JSON, where a tuple becomes a list, as what it is compared with did.
        facts = json.dumps({**settings, **rule, "task's tensors": shapes})
        return dict(json.loads(facts))

    def resume(self) -> bool:
        """Go on from the newest checkpoint of the folder.

        Returns:
            Whether there was one.

        Raises:
            ValueError: the checkpoint is damaged, or of another rule or other settings of it.
        """
        found = [] if self.folder is None else list_checkpoints(self.folder / "checkpoints")
        if not found:
            return False
        tensors, facts = read_checkpoint(found[-1])
        for name, value in self._made_with().items():
            if facts["made_with"].get(name) != value:
                raise ValueError(
                    f"{found[-1]} was made with {name}={facts['made_with'].get(name)}, "
                    f"not {value}: resume with the same task and settings"
                )
        parts = _unflatten(tensors)
        for part in ("rule", "average", "best"):
            getattr(self, part).load_state_dict(parts[part])
        saved = self.meta_optimizer.state_dict()
        for name, value in parts.get("meta_optimizer", {}).items():
            index, key = name.split("/")
            saved["state"].setdefault(int(index), {})[key] = value
        self.meta_optimizer.load_state_dict(saved)
        self.runs.load_state_dict(parts["inner"], facts["runs"])
        self.outer_step = facts["outer_step"]
        self.seconds = facts["seconds"]
        self.best_value = facts["best_value"]
        self.diverged = facts["diverged"]
        self.skipped = facts["skipped"]
        self.recent_norms.extend(facts["recent_norms"])
        return True


def _unflatten(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, key = name.split("/", 1)
        parts.setdefault(part, {})[key] = value
    return parts
