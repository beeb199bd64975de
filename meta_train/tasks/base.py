"""What a task is: a distribution of inner problems. It knows nothing of optimizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

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
        full: all of the problem's data as one batch, for evaluation.
    """

    parameters: Tensors
    buffers: Tensors
    loss: Loss
    draw: Callable[[torch.Generator], Batch]
    full: Callable[[], Batch]


class Task(ABC):
    """A distribution of problems with the same tensor shapes and the same loss function."""

    @abstractmethod
    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw a problem, its tensors on `device`; equal generators draw equal problems."""

    def validation(self) -> Task:
        """The task that picks weights during meta-training: other data, where there is some."""
        return self

    def held_out(self) -> dict[str, Task]:
        """The tasks to judge by, by title, the family itself first, on data nothing was fitted to.

        Further ones may lie outside the family, to see how far what was learned carries.
        """
        return {"same family": self}
