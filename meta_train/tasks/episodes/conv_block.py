"""Convolution, batch normalisation and ReLU of many runs at once, each with its own weights.

Under `torch.func.vmap`, batch normalisation falls apart into a dozen operations, each with a
derivative and a second derivative. Here the first and second derivatives of the whole block are
written out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from meta_train.tasks.episodes.batch_norm import (
    Normalised,
    gradient,
    normalise,
    second_derivatives,
)
from meta_train.tasks.episodes.convolution import Geometry, by_input, by_weight, convolve


def conv_block(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, geometry: Geometry, eps: float
) -> Tensor:
    """relu(batch_norm(conv(x))), normalised by the statistics of each run's batch.

    It can be differentiated twice. A bias of the convolution would cancel in the normalisation.

    Args:
        x: `[runs, images, H, W, in]`.
        weight: `[runs, out, in, kernel height, kernel width]`.
        scale: of batch normalisation, `[runs, out]`.
        shift: of batch normalisation, `[runs, out]`.
        geometry: of the convolution.
        eps: of batch normalisation.

    Returns:
        `[runs, images, H', W', out]`.
    """
    y: Tensor = _Block.apply(x, weight, scale, shift, geometry, eps)  # type: ignore[no-untyped-call]
    return y


class _Block(torch.autograd.Function):
    """The block."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        shift: Tensor,
        geometry: Geometry,
        eps: float,
    ) -> Tensor:
        maps = convolve(x, weight, geometry)
        seen = normalise(maps.flatten(1, 3), scale, shift, eps)
        ctx.save_for_backward(x, weight, *seen)
        ctx.geometry = geometry
        return seen.y.view(maps.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Gradients that can be differentiated once more."""
        x, weight, y, normal, spread, scale = ctx.saved_tensors
        given = (grad, x, weight, scale, y.detach(), normal, spread)
        needs_x = ctx.needs_input_grad[0]
        found = _BlockGradient.apply(*given, ctx.geometry, needs_x)  # type: ignore[no-untyped-call]
        return *found, None, None


class _BlockGradient(torch.autograd.Function):
    """The gradients of a block by x, weight, scale and shift."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        y: Tensor,
        normal: Tensor,
        spread: Tensor,
        geometry: Geometry,
        needs_x: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        seen = Normalised(y.flatten(1, -2), normal, spread, scale)
        rows, by_scale, by_shift = gradient(grad.flatten(1, 3), seen)
        by_maps = rows.view(grad.shape)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, grad, by_maps, *seen)
        ctx.geometry = geometry
        by_x = by_input(by_maps, x, weight, geometry) if needs_x else None
        return by_x, by_weight(by_maps, x, weight, geometry), by_scale, by_shift

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        to_x: Tensor | None,
        to_weight: Tensor | None,
        to_scale: Tensor | None,
        to_shift: Tensor | None,
    ) -> Any:
        """Second derivatives; `to_x` is the gradient by the gradient by x, and so on."""
        x, weight, grad, by_maps, *kept = ctx.saved_tensors
        seen, geometry = Normalised(*kept), ctx.geometry
        to_scale = torch.zeros_like(seen.scale) if to_scale is None else to_scale
        to_shift = torch.zeros_like(seen.scale) if to_shift is None else to_shift
        # The part of the gradient by the maps that comes through both gradients of the convolution.
        t = torch.zeros_like(by_maps) if to_x is None else convolve(to_x, weight, geometry)
        if to_weight is not None:
            t = convolve(x, to_weight, geometry, into=t)
        given = t.flatten(1, 3), to_scale, to_shift, grad.flatten(1, 3)
        to_grad, rows, by_scale = second_derivatives(*given, seen)
        to_maps = rows.view(by_maps.shape)
        to_w = by_weight(to_maps, x, weight, geometry)
        if to_x is not None:
            to_w = by_weight(by_maps, to_x, weight, geometry, into=to_w)
        by_x = None
        if ctx.needs_input_grad[1]:
            by_x = by_input(to_maps, x, weight, geometry)
            if to_weight is not None:
                by_x = by_input(by_maps, x, to_weight, geometry, into=by_x)
        return to_grad.view(grad.shape), by_x, to_w, by_scale, *5 * (None,)
