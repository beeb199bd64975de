"""Validation on held-out tasks: the mean log loss, and curves beside tuned Adam."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from learned_opt.monitoring.figures import import_matplotlib
from learned_opt.optimizer.options import whole_number
from learned_opt.rules import create_rule
from meta_train.evaluation.baselines import learning_rate_grid
from meta_train.evaluation.curves import train_curves
from meta_train.evaluation.validation.validator import Validator
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.runtime.device import choose_device
from meta_train.runtime.seeding import generator
from meta_train.tasks.base import Problem, Task, TaskFamily, Tensors
from meta_train.tasks.describe import describe
from meta_train.tasks.family_argument import check_family

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBLEMS = 4
"""Validation problems: four of one task, or one of each of four tasks of a family."""
SMALLEST = 1e-8
"""Lower limit of a loss before its logarithm is taken."""


class TaskValidator(Validator):
    """Mean log training loss over validation problems and steps.

    The logarithm makes the loss independent of a problem's scale and sensitive to a bad end.

    Examples:
        >>> validator = TaskValidator(task.validation(), steps=100, device=torch.device("cpu"))
        >>> trainer = MetaTrainer(rule, task, settings, validate=validator)

    Args:
        family: validation tasks. A task gives four problems, a family four tasks.
        steps: inner steps.
        device: device of training.

    Raises:
        TypeError: not a device.
        ValueError: not a family of tasks, or a number of steps that is not whole.

    Attributes:
        curves: losses of the last validation, `[problems, steps]`; None before the first.
    """

    def __init__(self, family: TaskFamily, steps: int, device: torch.device) -> None:
        check_family(family)
        self.steps = whole_number("steps", steps)
        self.device = choose_device(device)
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
        """Train the validation problems.

        Returns:
            The mean log loss over problems and steps.
        """
        rule, initialization = copy.deepcopy(meta_parameters.rule), meta_parameters.initialization()
        losses = [
            train_curves(
                rule,
                _StartingAt(task, initialization) if initialization else task,
                seeds=seeds,
                steps=self.steps,
                device=self.device,
            ).losses[0]
            for task, seeds in self.tasks
        ]
        self.curves = torch.cat(losses)
        return float(self.curves.clamp_min(SMALLEST).log().mean())

    def describe(self) -> dict[str, Any]:
        """The tasks, their seeds and the number of steps."""
        tasks = [[describe(task), [seeds.start, seeds.stop]] for task, seeds in self.tasks]
        return {"steps": self.steps, "tasks": tasks}

    def _tuned_adam(self) -> Tensor:
        """Adam's losses at its best learning rate on these problems, `[problems, steps]`."""
        adam, curves = create_rule("adam"), []
        for task, seeds in self.tasks:
            losses = train_curves(
                adam,
                task,
                seeds=seeds,
                steps=self.steps,
                learning_rates=learning_rate_grid(1e-3, 1.0),
                device=self.device,
            ).losses
            curves.append(losses[int(losses.clamp_min(SMALLEST).log().mean((1, 2)).argmin())])
        return torch.cat(curves)

    def figure(self) -> Figure:
        """The curves of the last validation beside those of tuned Adam, which is trained once."""
        import_matplotlib()
        from matplotlib.figure import Figure

        from meta_train.evaluation.loss_axis import show_losses

        if self._adam is None:
            self._adam = self._tuned_adam()
        figure = Figure(figsize=(5, 3.4), layout="constrained")
        axis = figure.subplots()
        for label, curves in (("learned", self.curves), ("Adam, tuned", self._adam)):
            if curves is None:
                continue
            line = axis.plot(curves.clamp_min(SMALLEST).log().mean(0).exp(), label=label)[0]
            low, high = curves.min(0).values, curves.max(0).values
            axis.fill_between(range(len(low)), low, high, color=line.get_color(), alpha=0.15)
        show_losses(axis)
        axis.set_xlabel("inner step")
        axis.set_ylabel("training loss")
        axis.legend(frameon=False)
        return figure


class _StartingAt(Task):
    """The problems of a task, starting at a learned initialisation."""

    def __init__(self, task: Task, initialization: Tensors) -> None:
        self.task = task
        self.initialization = initialization

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw a problem and replace its initial parameters."""
        problem = self.task.sample(generator, device)

        def placed(own: Tensors) -> Tensors:
            learned = self.initialization
            return {
                key: learned[key].detach().to(value) if key in learned else value
                for key, value in own.items()
            }

        return replace(problem, parameters=placed(problem.parameters), fixed=placed(problem.fixed))
