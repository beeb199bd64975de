"""Any task with its tensors measured in random units: an augmentation against overfitting.

A rule that is meta-trained on tensors of one scale learns that scale. Multiplying each tensor's
parameters by a random factor, and dividing by it inside the loss, leaves the function as it was and
changes every gradient (Lv et al. 2017, arXiv 1703.03633, section 4; Metz et al. 2022, arXiv
2211.09760). A random factor on the loss changes all gradients together.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from meta_train.tasks.base import Batch, Problem, SampledTask, Task, Tensors

UNIT = "unit of "
LOSS_UNIT = UNIT
"""The loss's own: no parameter has an empty name."""


class Reparametrized(Task):
    """Problems of `task`, each tensor in units of exp(U(-spread, spread)).

    Args:
        task: where problems come from; it also validates and judges.
        spread: half-width of the logarithm of a tensor's factor.
        loss_rescale_range: half-width of the logarithm of the factor of a problem's loss.

    Raises:
        ValueError: a negative spread.
    """

    def __init__(self, task: Task, spread: float, loss_rescale_range: float = 0.0) -> None:
        for name, value in (("spread", spread), ("loss_rescale_range", loss_rescale_range)):
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        self.task = task
        self.spread = spread
        self.loss_rescale_range = loss_rescale_range
        # All problems of a task share one loss.
        self._inner_loss = task.sample(torch.Generator().manual_seed(0), torch.device("cpu")).loss

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """The task itself, by the name of the one inside."""
        return SampledTask(self.task.sample_task(generator).family, self)

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw a problem of `task`, a unit for each tensor, and one for the loss."""
        problem = self.task.sample(generator, device)
        logs = (2 * torch.rand(len(problem.parameters), generator=generator) - 1) * self.spread
        units = dict(zip(problem.parameters, logs.exp().to(device), strict=True))
        buffers = {UNIT + key: unit for key, unit in units.items()}
        if self.loss_rescale_range > 0:
            log = (2 * torch.rand((), generator=generator) - 1) * self.loss_rescale_range
            buffers[LOSS_UNIT] = log.exp().to(device)
        return replace(
            problem,
            parameters={key: value / units[key] for key, value in problem.parameters.items()},
            buffers={**problem.buffers, **buffers},
            loss=self.loss,
        )

    def loss(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The loss of `task` at the parameters in its own units; the units ride in the buffers."""
        units = {key: value for key, value in buffers.items() if key.startswith(UNIT)}
        own = {key: value for key, value in buffers.items() if key not in units}
        in_own_units = {
            # What inner training leaves as it is has no unit.
            key: value * units[UNIT + key] if UNIT + key in units else value
            for key, value in parameters.items()
        }
        loss, new_buffers = self._inner_loss(in_own_units, own, batch)
        if LOSS_UNIT in units:
            loss = loss * units[LOSS_UNIT]
        return loss, {**new_buffers, **units}

    def validation(self) -> Task:
        """As `task` says: in its own units."""
        return self.task.validation()

    def held_out(self) -> dict[str, Task]:
        """As `task` says: in its own units."""
        return self.task.held_out()
