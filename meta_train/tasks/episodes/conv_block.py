"""Convolution, batch normalisation and ReLU of many runs at once, each with its own weights.

Under `torch.func.vmap`, batch normalisation falls apart into a dozen operations, each with a
derivative and a second derivative. Here the first and second derivatives of the whole block are
written out, in sums over rows: all images and places of a run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    """The block. Inside, maps are rows, `[runs, rows, channels]`."""

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
        maps = convolve(x, weight, geometry).flatten(1, 3)
        maps -= maps.mean(1, keepdim=True)
        spread = (maps.square().mean(1, keepdim=True) + eps).rsqrt()
        normal = maps.mul_(spread)
        y = torch.addcmul(shift.unsqueeze(1), normal, scale.unsqueeze(1)).relu_()
        ctx.save_for_backward(x, weight, scale, normal, spread, y)
        ctx.geometry = geometry
        return y.view(*x.shape[:2], *geometry.places(*x.shape[2:4]), -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Gradients that can be differentiated once more."""
        x, weight, scale, normal, spread, y = ctx.saved_tensors
        given = (grad, x, weight, scale, normal, spread, y.detach())
        needs_x = ctx.needs_input_grad[0]
        found = _BlockGradient.apply(*given, ctx.geometry, needs_x)  # type: ignore[no-untyped-call]
        return *found, None, None


class _BlockGradient(torch.autograd.Function):
    """The gradients of a block by x, weight, scale and shift.

    With a = conv(x), s = (var a + eps)^(-1/2), n = (a - mean a) s and z = scale n + shift, and with
    g the gradient by z and means over rows (Ioffe & Szegedy 2015, arXiv 1502.03167, section 3):

        da = scale s (g - mean(g) - n mean(g n))
    """

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        normal: Tensor,
        spread: Tensor,
        y: Tensor,
        geometry: Geometry,
        needs_x: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        by_z = _through_relu(grad, y)
        mean = by_z.mean(1, keepdim=True)
        along = (by_z * normal).mean(1, keepdim=True)
        by_maps = torch.addcmul(by_z - mean, normal, along, value=-1)
        by_maps = by_maps.mul_(scale.unsqueeze(1) * spread).view(grad.shape)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, scale, normal, spread, y, by_z, by_maps, mean, along)
        ctx.geometry = geometry
        count = y.shape[1]
        return (
            by_input(by_maps, x, weight, geometry) if needs_x else None,
            by_weight(by_maps, x, weight, geometry),
            count * along.squeeze(1),
            count * mean.squeeze(1),
        )

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
        x, weight, scale, normal, spread, y, by_z, by_maps, mean, along = ctx.saved_tensors
        shape, geometry = by_maps.shape, ctx.geometry
        zero = torch.zeros_like(mean)
        to_scale = zero if to_scale is None else to_scale.unsqueeze(1)
        to_shift = zero if to_shift is None else to_shift.unsqueeze(1)
        factor = scale.unsqueeze(1) * spread

        # t: what comes to da through both gradients of the convolution.
        t = torch.zeros_like(by_maps) if to_x is None else convolve(to_x, weight, geometry)
        if to_weight is not None:
            t = convolve(x, to_weight, geometry, into=t)
        t = t.view_as(by_z)
        mean_t = t.mean(1, keepdim=True)
        along_t = (t * normal).mean(1, keepdim=True)
        product = (t * by_z).mean(1, keepdim=True) - mean * mean_t - along * along_t

        # From da to g, and on through ReLU.
        rest = to_scale - factor * along_t
        by_g = torch.addcmul(to_shift - factor * mean_t, factor, t).addcmul_(rest, normal)
        by_grad = _through_relu(by_g, y).view(shape)

        # From da, and from the gradient by scale, to n and s, and on to a.
        slope, factor_s = factor * along, factor * spread
        constant = spread * (slope * mean_t - rest * mean)
        of_normal = spread * (slope * along_t - rest * along) - factor_s * product
        by_a = torch.addcmul(constant, -spread * slope, t)
        by_a = by_a.addcmul_(spread * rest, by_z).addcmul_(of_normal, normal).view(shape)

        to_w = by_weight(by_a, x, weight, geometry)
        if to_x is not None:
            to_w = by_weight(by_maps, to_x, weight, geometry, into=to_w)
        by_x = None
        if ctx.needs_input_grad[1]:
            by_x = by_input(by_a, x, weight, geometry)
            if to_weight is not None:
                by_x = by_input(by_maps, x, to_weight, geometry, into=by_x)
        by_scale = y.shape[1] * (spread * product).squeeze(1)
        return by_grad, by_x, to_w, by_scale, None, None, None, None, None


def _through_relu(grad: Tensor, y: Tensor) -> Tensor:
    """The gradient where the output of ReLU is positive, `[runs, rows, channels]`."""
    return torch.ops.aten.threshold_backward(grad.reshape(y.shape), y, 0)  # type: ignore[no-any-return]
