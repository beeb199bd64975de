"""Helpers that mask diverged runs and broadcast values per run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class LossWithGradient(torch.autograd.Function):
    """Attaches gradients that are already known to losses, so that no graph is needed."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, *parameters_and_gradients: Tensor) -> Tensor:
        """Return the losses unchanged.

        Args:
            ctx: keeps the gradients.
            losses: 0-dim or `[runs]`.
            *parameters_and_gradients: all parameters, then the gradient of each.
        """
        count = len(parameters_and_gradients) // 2
        ctx.save_for_backward(*parameters_and_gradients[count:])
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Multiply each run's gradients by the incoming derivative of its loss."""
        gradients = ctx.saved_tensors
        scaled = [lead(grad, gradient) * gradient for gradient in gradients]
        return None, *scaled, *([None] * len(gradients))


def lead(value: Tensor, tensor: Tensor) -> Tensor:
    """Append axes to a value per run, so that it broadcasts over `[*runs, *rest]`."""
    return value.reshape((*value.shape, *([1] * (tensor.dim() - value.dim()))))


def where_alive(alive: Tensor | None, value: Tensor, otherwise: Tensor | float) -> Tensor:
    """Return `value` for runs that are alive, `otherwise` for the rest.

    Args:
        alive: 0-dim or `[runs]`, bool; None means that all runs are alive.
        value: `[*runs, ...]`.
        otherwise: broadcastable to `value`.
    """
    return value if alive is None else torch.where(lead(alive, value), value, otherwise)
