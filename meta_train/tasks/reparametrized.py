"""Any task with its tensors measured in random units: an augmentation against overfitting.

A rule that is meta-trained on tensors of one scale learns that scale. Multiplying each tensor's
parameters by a random factor, and dividing by it inside the loss, leaves the function as it was and
changes every gradient (Lv et al. 2017, arXiv 1703.03633, section 4; Metz et al. 2022, arXiv
2211.09760).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from meta_train.tasks.base import Batch, Problem, Task, Tensors

UNIT = "unit of "


class Reparametrized(Task):
    """Problems of `task`, each tensor in units of exp(U(-spread, spread)).

    Args:
        task: where problems come from; it also validates and judges.
        spread: half-width of the factor's logarithm.

    Raises:
        ValueError: a negative spread.
    """

    def __init__(self, task: Task, spread: float) -> None:
        if not spread >= 0:
            raise ValueError(f"spread must be at least 0, got {spread}")
        self.task = task
        self.spread = spread
        # All problems of a task share one loss.
        self._inner_loss = task.sample(torch.Generator().manual_seed(0), torch.device("cpu")).loss

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw a problem of `task` and a unit for each tensor."""
        problem = self.task.sample(generator, device)
        logs = (2 * torch.rand(len(problem.parameters), generator=generator) - 1) * self.spread
        units = dict(zip(problem.parameters, logs.exp().to(device), strict=True))
        return replace(
            problem,
            parameters={key: value / units[key] for key, value in problem.parameters.items()},
            buffers={**problem.buffers, **{UNIT + key: unit for key, unit in units.items()}},
            loss=self.loss,
        )

    def loss(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The loss of `task` at the parameters in its own units; the units ride in the buffers."""
        units = {key: value for key, value in buffers.items() if key.startswith(UNIT)}
        own = {key: value for key, value in buffers.items() if key not in units}
        in_own_units = {key: value * units[UNIT + key] for key, value in parameters.items()}
        loss, new_buffers = self._inner_loss(in_own_units, own, batch)
        return loss, {**new_buffers, **units}

    def validation(self) -> Task:
        """As `task` says: in its own units."""
        return self.task.validation()

    def held_out(self) -> dict[str, Task]:
        """As `task` says: in its own units."""
        return self.task.held_out()
