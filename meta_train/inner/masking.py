"""What inner steps of many runs are made of: values per run, masks of runs that are alive."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class LossWithGradient(torch.autograd.Function):
    """Losses whose derivatives by the parameters are known: the gradients computed anyway."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, *parameters_and_gradients: Tensor) -> Tensor:
        """The losses as they are."""
        count = len(parameters_and_gradients) // 2
        ctx.save_for_backward(*parameters_and_gradients[count:])
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Every run's gradient times what comes in for its loss."""
        gradients = ctx.saved_tensors
        scaled = [lead(grad, gradient) * gradient for gradient in gradients]
        return None, *scaled, *([None] * len(gradients))


def lead(value: Tensor, tensor: Tensor) -> Tensor:
    """Append axes to a value per run, so that it broadcasts over `[*runs, *rest]`."""
    return value.reshape((*value.shape, *([1] * (tensor.dim() - value.dim()))))


def largest(tensor: Tensor, axis: int) -> Tensor:
    """The largest magnitude over all axes from `axis` on; NaN where one is."""
    axes = list(range(axis, tensor.dim()))
    return tensor.abs().amax(axes) if axes else tensor.abs()


def where_alive(alive: Tensor | None, value: Tensor, otherwise: Tensor | float) -> Tensor:
    """Values of the runs that are alive; None where all are."""
    return value if alive is None else torch.where(lead(alive, value), value, otherwise)
