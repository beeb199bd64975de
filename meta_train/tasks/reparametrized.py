"""Random rescaling of a task's parameters and loss: an augmentation against overfitting.

A rule that is meta-trained on tensors of one scale overfits to that scale. Dividing a tensor by a
random factor, and multiplying by it again inside the loss, keeps the function and changes its
gradients (Lv et al. 2017, arXiv 1703.03633, section 4; Metz et al. 2022, arXiv 2211.09760). A
random factor on the loss changes all gradients together.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from meta_train.runtime.checks import check_not_negative
from meta_train.tasks.base import Batch, BatchedLoss, Loss, Problem, SampledTask, Task, Tensors

SCALE = "scale of "
"""Prefix of the buffers that hold the factors."""

LOSS_SCALE = SCALE
"""The buffer of the loss's factor: no parameter has an empty name."""


class Reparametrized(Task):
    """The problems of `task`, with each parameter tensor and the loss rescaled at random.

    `MetaTrainer` applies it if `TrainSettings.param_rescale_range` or `loss_rescale_range` is
    positive.

    Examples:
        Each tensor is divided by its own factor between 1/e and e::

            Reparametrized(Quadratic(), param_rescale_range=1.0)

    Args:
        task: the task to rescale. Validation and evaluation use it as it is.
        param_rescale_range: each tensor is divided by exp(U(-range, range)).
        loss_rescale_range: the loss of each problem is multiplied by exp(U(-range, range)).

    Raises:
        ValueError: a negative range.
    """

    def __init__(
        self, task: Task, param_rescale_range: float, loss_rescale_range: float = 0.0
    ) -> None:
        check_not_negative(
            param_rescale_range=param_rescale_range, loss_rescale_range=loss_rescale_range
        )
        self.task = task
        self.param_rescale_range = param_rescale_range
        self.loss_rescale_range = loss_rescale_range
        # All problems of a task share one loss.
        self._task_loss = task.sample(torch.Generator().manual_seed(0), torch.device("cpu")).loss

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """Return this task under the name of the original one."""
        return self.task.sample_task(generator)._replace(task=self)

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw a problem of `task`, then a factor for each tensor, then one for the loss."""
        problem = self.task.sample(generator, device)
        count = len(problem.parameters)
        logs = (2 * torch.rand(count, generator=generator) - 1) * self.param_rescale_range
        scales = dict(zip(problem.parameters, logs.exp().to(device), strict=True))
        buffers = {SCALE + key: scale for key, scale in scales.items()}
        if self.loss_rescale_range > 0:
            log = (2 * torch.rand((), generator=generator) - 1) * self.loss_rescale_range
            buffers[LOSS_SCALE] = log.exp().to(device)
        return replace(
            problem,
            parameters={key: value / scales[key] for key, value in problem.parameters.items()},
            buffers={**problem.buffers, **buffers},
            loss=self._own_loss,
        )

    @cached_property
    def _own_loss(self) -> Loss:
        """The rescaled loss, with the faster ways of the task's."""
        own = self._task_loss
        if not isinstance(own, BatchedLoss):
            return self.loss
        gradients = None if own.gradients is None else self._gradients
        return BatchedLoss(self.loss, self._losses, gradients=gradients)

    def loss(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The rescaled loss of `task` at the original parameters; the factors are buffers."""
        return self._rescaled(self._task_loss, parameters, buffers, batch)

    def _losses(
        self, parameters: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        """The rescaled losses of many runs, of a task that has them."""
        assert isinstance(self._task_loss, BatchedLoss)
        return self._rescaled(self._task_loss.many, parameters, buffers, batch)

    def _gradients(
        self, parameters: Tensors, buffers: Tensors, batch: Batch, factors: Tensor | None
    ) -> tuple[Tensor, Tensors, Tensors]:
        """The same with their gradients, of a task that has those."""
        assert isinstance(self._task_loss, BatchedLoss) and self._task_loss.gradients is not None
        scales, own_buffers, original = _undo(parameters, buffers)
        scale = scales.get(LOSS_SCALE)
        if scale is not None:
            factors = scale if factors is None else factors * scale
        losses, new_buffers, gradients = self._task_loss.gradients(
            original, own_buffers, batch, factors
        )
        for key, gradient in gradients.items():
            if SCALE + key in scales:
                gradient.mul_(_lead(scales[SCALE + key], gradient))
        losses = losses if scale is None else losses * scale
        return losses, {**new_buffers, **scales}, gradients

    def _rescaled(
        self, task_loss: Loss, parameters: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        """A loss of `task`, of one run (factors are 0-dim) or of many (`[runs]`)."""
        scales, own_buffers, original = _undo(parameters, buffers)
        loss, new_buffers = task_loss(original, own_buffers, batch)
        if LOSS_SCALE in scales:
            loss = loss * scales[LOSS_SCALE]
        return loss, {**new_buffers, **scales}

    def validation(self) -> Task:
        """The validation task of `task`, not rescaled."""
        return self.task.validation()

    def held_out(self) -> dict[str, Task]:
        """The held-out tasks of `task`, not rescaled."""
        return self.task.held_out()


def _undo(parameters: Tensors, buffers: Tensors) -> tuple[Tensors, Tensors, Tensors]:
    """The factors, the task's own buffers, and the parameters without factors."""
    scales = {key: value for key, value in buffers.items() if key.startswith(SCALE)}
    own_buffers = {key: value for key, value in buffers.items() if key not in scales}
    original = {
        # Frozen parameters are not rescaled.
        key: value * _lead(scales[SCALE + key], value) if SCALE + key in scales else value
        for key, value in parameters.items()
    }
    return scales, own_buffers, original


def _lead(factor: Tensor, tensor: Tensor) -> Tensor:
    """Append axes to a factor per run, so that it broadcasts over `[*runs, *param]`.

    It takes the dtype of the tensor: with axes, it would make half precision single.
    """
    axes = [1] * (tensor.dim() - factor.dim())
    return factor.reshape((*factor.shape, *axes)).to(tensor.dtype)
