"""The contracts of tasks: `Problem`, `Task` and `TaskFamily`. None of them knows an optimizer."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Tensor

Tensors: TypeAlias = dict[str, Tensor]
Batch: TypeAlias = Any
"""A tensor, or nested tuples and dicts of tensors."""

Loss: TypeAlias = Callable[[Tensors, Tensors, Batch], tuple[Tensor, Tensors]]
"""(parameters, buffers, batch) -> (0-dim loss, new buffers). The function is pure, and all problems
of a task share it, so that many problems can run at once under `torch.func.vmap`."""


LossGradients: TypeAlias = Callable[
    [Tensors, Tensors, Batch, Tensor | None], tuple[Tensor, Tensors, Tensors]
]
"""(parameters, buffers, batch, factors) of many runs -> (losses [runs], new buffers, gradients by
name of the sum over runs of factor times loss). Without factors, `[runs]`, they are 1. Gradients
are new tensors, which the caller may write to."""


@final
@dataclass(frozen=True)
class BatchedLoss:
    """A `Loss` that comes with a way to compute many runs at once, faster than `torch.func.vmap`.

    Attributes:
        one: the loss of one run.
        many: the same of many runs: every tensor has a leading axis of runs, and the losses are
            `[runs]`. It draws no random numbers.
        suits: whether `many` is no slower than the runs one by one, however large they are, for
            such parameters, buffers and a batch of many runs. By default it is not known.
        gradients: a way to compute the losses, the buffers and the gradients without autograd. Its
            numbers are those of autograd on `many`, bit for bit. By default there is none.
    """

    one: Loss
    many: Loss
    suits: Callable[[Tensors, Tensors, Batch], bool] | None = None
    gradients: LossGradients | None = None

    def __call__(
        self, parameters: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        """See `Loss`."""
        return self.one(parameters, buffers, batch)


@dataclass(frozen=True)
class Problem:
    """One inner problem: initial parameters, a loss, and data.

    Examples:
        The loss of a problem at its initial parameters, on one batch::

            problem = task.sample(torch.Generator().manual_seed(0), torch.device("cpu"))
            batch = problem.draw(torch.Generator().manual_seed(1))
            loss, buffers = problem.loss(problem.parameters, problem.buffers, batch)

    Attributes:
        parameters: initial values by name.
        buffers: initial buffers by name, such as running statistics.
        loss: see `Loss`.
        draw: draws the next training batch. All batches of a problem have one shape.
        full: returns all training data as one batch, or a fixed sample of it, for evaluation.
        draw_validation: draws a batch that inner training does not see, shaped like `draw`'s. None
            if inner training sees all data.
        fixed: frozen parameters by name. The loss reads them and inner training leaves them alone;
            a learned initialisation may contain them.
    """

    parameters: Tensors
    buffers: Tensors
    loss: Loss
    draw: Callable[[torch.Generator], Batch]
    full: Callable[[], Batch]
    draw_validation: Callable[[torch.Generator], Batch] | None = None
    fixed: Tensors = field(default_factory=dict)


class SampledTask(NamedTuple):
    """A task drawn from a family.

    Attributes:
        name: the family's name. Losses are logged under it.
        task: the task. All its problems can run together.
    """

    name: str
    task: Task


class TaskFamily(ABC):
    """A distribution of tasks. Two of its tasks may differ in tensor shapes and in their loss.

    Meta-training draws a task for each group of inner runs, and replaces it after a while.

    Examples:
        Linear models with 2 to 9 inputs::

            class LinearModels(TaskFamily):
                def sample_task(self, generator):
                    inputs = int(torch.randint(2, 10, (), generator=generator))
                    return SampledTask("linear-models", make_task(inputs))

                def held_out(self):
                    return {"20 inputs": make_task(20)}
    """

    @abstractmethod
    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """Draw a task. Equal generators draw tasks with equal problems."""

    def validation(self) -> TaskFamily:
        """The family on validation data, used to select weights during meta-training.

        The default is the family itself, for families without a separate validation set.
        """
        return self

    @abstractmethod
    def held_out(self) -> dict[str, Task]:
        """The tasks of the final evaluation, by title, on test data.

        The first one lies inside the family. Others may lie outside, to measure how well the rule
        generalises.
        """


class Task(TaskFamily):
    """A distribution of problems that share their tensor shapes and their loss function.

    A task is also a family that contains only itself. `ModuleTask` makes one of any module, loss
    and data; subclass `Task` for anything else.

    Examples:
        Minimise |x - target|^2, with a new target `[5]` for each problem::

            class Distance(Task):
                def sample(self, generator, device):
                    target = torch.randn(5, generator=generator).to(device)
                    start = {"x": torch.zeros(5, device=device)}
                    return Problem(start, {}, self.loss, lambda _: target, lambda: target)

                @staticmethod
                def loss(parameters, buffers, batch):
                    return (parameters["x"] - batch).square().sum(), buffers
    """

    @abstractmethod
    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw a problem with its tensors on `device`. Equal generators draw equal problems."""

    def begin_outer_step(self, outer_step: int) -> None:
        """Learn the number of the outer step that begins, from 0.

        The default ignores it. A task whose loss changes in the course of meta-training puts the
        number into its batches, because the loss itself is pure.
        """
        return

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """Return the task itself; draws nothing."""
        return SampledTask(family_name(type(self)), self)

    def validation(self) -> Task:
        """See `TaskFamily`."""
        return self

    def held_out(self) -> dict[str, Task]:
        """See `TaskFamily`."""
        return {"same family": self}


def family_name(cls: type[TaskFamily]) -> str:
    """The class name in the registry's spelling: "digits-mlp" for `DigitsMLP`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()
