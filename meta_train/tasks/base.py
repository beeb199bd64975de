"""What a task is: a distribution of inner problems. It knows nothing of optimizers."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

Tensors: TypeAlias = dict[str, Tensor]
Batch: TypeAlias = Any
"""A tensor, or tuples and dicts of tensors."""

Loss: TypeAlias = Callable[[Tensors, Tensors, Batch], tuple[Tensor, Tensors]]
"""(parameters, buffers, batch) -> (0-dim loss, new buffers): pure, and the same function for all
problems of a task, so that many of them can run at once under `torch.func.vmap`."""


@dataclass(frozen=True)
class Problem:
    """One inner problem: where training starts, what it minimises, and its data.

    Attributes:
        parameters: initial values by name.
        buffers: initial buffers by name (running statistics and the like).
        loss: see `Loss`.
        draw: gives the next batch; all of a problem's batches have one shape.
        full: all of the problem's data as one batch, or a fixed sample of it, for evaluation.
        draw_validation: gives a batch of data that inner training does not see, of the shape of
            `draw`'s; None where all data is trained on.
        fixed: values by name of parameters that the loss is given too, but that inner training
            leaves as they are; a learned initialisation may have them.
    """

    parameters: Tensors
    buffers: Tensors
    loss: Loss
    draw: Callable[[torch.Generator], Batch]
    full: Callable[[], Batch]
    draw_validation: Callable[[torch.Generator], Batch] | None = None
    fixed: Tensors = field(default_factory=dict)


class SampledTask(NamedTuple):
    """One task out of a family.

    Attributes:
        family: what its losses are logged under.
        task: where problems come from, which can run together.
    """

    family: str
    task: Task


class TaskFamily(ABC):
    """A distribution of tasks; members may differ in tensor shapes and in their loss."""

    @abstractmethod
    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """Draw a task; equal generators draw tasks with equal problems."""

    def validation(self) -> TaskFamily:
        """The family that picks weights during meta-training: other data, where there is some."""
        return self

    @abstractmethod
    def held_out(self) -> dict[str, Task]:
        """The tasks to judge by, by title, the family itself first, on data nothing was fitted to.

        Further ones may lie outside the family, to see how far what was learned carries.
        """


class Task(TaskFamily):
    """A distribution of problems with the same tensor shapes and the same loss function.

    It is a family with one member, itself.
    """

    @abstractmethod
    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw a problem, its tensors on `device`; equal generators draw equal problems."""

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """The task itself; nothing is drawn."""
        return SampledTask(family_name(type(self)), self)

    def validation(self) -> Task:
        """See `TaskFamily`."""
        return self

    def held_out(self) -> dict[str, Task]:
        """See `TaskFamily`."""
        return {"same family": self}


def family_name(of: type[TaskFamily]) -> str:
    """The class's name as the registry writes names: `DigitsMLP` is "digits-mlp"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", of.__name__).lower()
