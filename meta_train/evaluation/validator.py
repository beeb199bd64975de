"""Model selection: a validation loss of meta-parameters on held-out tasks, and its curves."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from learned_opt.rules import create_rule
from meta_train.evaluation.baselines import rate_grid
from meta_train.evaluation.compare import train_curves
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.runtime.seeding import generator
from meta_train.tasks.base import Problem, Task, TaskFamily, Tensors
from meta_train.tasks.describe import describe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBLEMS = 4
"""Validation problems of one task, or tasks of a family with one problem each."""


class Validator:
    """Mean log loss over validation problems: blind to scale, hard on a bad end.

    Args:
        family: validation tasks; four problems of a task, four tasks of a family.
        steps: inner steps.
        device: where to train.
    """

    def __init__(self, family: TaskFamily, steps: int, device: torch.device) -> None:
        self.steps = steps
        self.device = device
        self.tasks: list[tuple[Task, range]] = []
        if isinstance(family, Task):
            self.tasks.append((family, range(PROBLEMS)))
        else:
            for k in range(PROBLEMS):
                task = family.sample_task(generator("validation", k)).task
                self.tasks.append((task, range(k, k + 1)))
        self.curves: Tensor | None = None
        self._adam: Tensor | None = None

    def __call__(self, meta_parameters: MetaParameters) -> float:
        """Validate.

        Returns:
            The mean log loss over problems and steps.
        """
        rule, phi = copy.deepcopy(meta_parameters.rule), meta_parameters.initialization()
        losses = [
            train_curves(
                rule,
                _StartingAt(task, phi) if phi else task,
                seeds=seeds,
                steps=self.steps,
                device=self.device,
            ).losses[0]
            for task, seeds in self.tasks
        ]
        self.curves = torch.cat(losses)
        return float(self.curves.clamp_min(1e-8).log().mean())

    def described(self) -> dict[str, Any]:
        """What a resumed run must be validated by, too: its best value is compared with these."""
        tasks = [[describe(task), [seeds.start, seeds.stop]] for task, seeds in self.tasks]
        return {"steps": self.steps, "tasks": tasks}

    def _tuned_adam(self) -> Tensor:
        """Adam's losses at its best rate on these very problems, `[problems, steps]`."""
        adam, curves = create_rule("adam"), []
        for task, seeds in self.tasks:
            losses = train_curves(
                adam,
                task,
                seeds=seeds,
                steps=self.steps,
                rates=rate_grid(1e-3, 1.0),
                device=self.device,
            ).losses
            curves.append(losses[int(losses.clamp_min(1e-8).log().mean((1, 2)).argmin())])
        return torch.cat(curves)

    def figure(self) -> Figure:
        """The last validation's curves beside those of tuned Adam (trained once)."""
        from matplotlib.figure import Figure

        from meta_train.evaluation.axes import show_losses

        if self._adam is None:
            self._adam = self._tuned_adam()
        figure = Figure(figsize=(5, 3.4), layout="constrained")
        axis = figure.subplots()
        for label, curves in (("learned", self.curves), ("Adam, tuned", self._adam)):
            if curves is None:
                continue
            line = axis.plot(curves.clamp_min(1e-8).log().mean(0).exp(), label=label)[0]
            low, high = curves.min(0).values, curves.max(0).values
            axis.fill_between(range(len(low)), low, high, color=line.get_color(), alpha=0.15)
        show_losses(axis)
        axis.set_xlabel("inner step")
        axis.set_ylabel("training loss")
        axis.legend(frameon=False)
        return figure


class _StartingAt(Task):
    """The same problems from a learned initialisation."""

    def __init__(self, task: Task, phi: Tensors) -> None:
        self.task = task
        self.phi = phi

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        problem = self.task.sample(generator, device)

        def begin(own: Tensors) -> Tensors:
            return {
                k: self.phi[k].detach().to(value) if k in self.phi else value
                for k, value in own.items()
            }

        return replace(problem, parameters=begin(problem.parameters), fixed=begin(problem.fixed))
