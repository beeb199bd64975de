"""The criterion by which an inner run has diverged."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from meta_train.tasks.base import Tensors


def is_finite_and_bounded(
    losses: Tensor,
    first: Tensor,
    gradients: Tensors,
    *,
    times: float,
    vectorize: bool,
    traceable: bool,
) -> Tensor:
    """Check each run: finite loss and gradients, loss at most a multiple of the first.

    Args:
        losses: 0-dim or `[runs]`.
        first: the first loss of each run, of the same shape.
        gradients: by parameter name, `[*param]` or `[runs, *param]`.
        times: the multiple of the first loss, which counts as at least 1e-8.
        vectorize: whether there is an axis of runs.
        traceable: take no branch that depends on values.

    Returns:
        Which runs have not diverged, bool, in the shape of the losses.
    """
    finite = losses.isfinite() & (losses <= times * first.abs().clamp_min(1e-8))
    if not traceable and _all_known_small(gradients, losses.device):
        return finite
    axis = 1 if vectorize else 0
    # The largest magnitude takes two passes at the speed of memory. Testing every number takes
    # twenty times as long, more than the rest of a step of SGD.
    # Squared: rules take mean squares, and an overflow inside a rule cannot be masked.
    squares = [
        _largest(gradient.detach(), axis).square()
        for gradient in gradients.values()
        if gradient.numel()
    ]
    return finite & torch.stack(squares).isfinite().all(0) if squares else finite


def _all_known_small(gradients: Tensors, device: torch.device) -> bool:
    """Check without device sync whether all squares are finite; False means unknown."""
    if device.type != "cpu":
        return False
    # One pass over each; none is larger than the norm of all.
    norms = [torch.linalg.vector_norm(value.detach()) for value in gradients.values()]
    return bool(norms) and math.isfinite(float(torch.stack(norms).sum().square()))


def _largest(tensor: Tensor, axis: int) -> Tensor:
    """Return the largest magnitude over all axes from `axis` on; NaN if any entry is NaN."""
    axes = list(range(axis, tensor.dim()))
    return tensor.abs().amax(axes) if axes else tensor.abs()
