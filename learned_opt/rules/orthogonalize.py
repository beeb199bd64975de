"""Brings all singular values of matrices near 1, by Newton-Schulz iterations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from learned_opt.rules.features import safe_sqrt
from learned_opt.rules.whole_tensors import one_where_zero

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b, c of X <- a X + (b A + c A A) X, A = X X^T: Muon's."""


def orthogonalize(matrices: Tensor, iterations: int) -> Tensor:
    """Bring all singular values near 1 by Newton-Schulz iterations; zero stays zero.

    Args:
        matrices: `[..., rows, columns]`, of any scale.
        iterations: how many; five bring singular values above 1e-3 of the norm to 0.7 to 1.2.

    Returns:
        `[..., rows, columns]`, in the dtype of `matrices`.
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    # The scale drops out, so it needs no derivative; the largest first, lest squares overflow.
    x = x / one_where_zero(x.detach().abs().amax((-2, -1), keepdim=True))
    x = x / safe_sqrt(one_where_zero(x.square().sum((-2, -1), keepdim=True)))
    if x.is_cuda and x.dtype == torch.float32:
        x = x.bfloat16()
    a, b, c = NEWTON_SCHULZ
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x if wide else x.mT).to(matrices.dtype)


def orthogonal_directions(tensors: Sequence[Tensor], iterations: int) -> list[Tensor]:
    """Orthogonalise tensors as matrices, with an RMS of about 1; those of one shape together.

    Args:
        tensors: `[out, ...]` each, read as `[out, the rest]`.
        iterations: see `orthogonalize`.

    Returns:
        Tensors of the same shapes.
    """
    by_shape: dict[tuple[int, int], list[int]] = {}
    for k, tensor in enumerate(tensors):
        by_shape.setdefault(matrix_shape(tensor.shape), []).append(k)
    directions: dict[int, Tensor] = {}
    for shape, members in by_shape.items():
        stacked = torch.stack([tensors[k].reshape(shape) for k in members])
        orthogonal = orthogonalize(stacked, iterations) * math.sqrt(max(shape))
        for k, direction in zip(members, orthogonal.unbind(), strict=True):
            directions[k] = direction.reshape(tensors[k].shape)
    return [directions[k] for k in range(len(tensors))]


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """The shape `[out, the rest]` of a kernel as a matrix."""
    return shape[0], math.prod(shape) // shape[0]
