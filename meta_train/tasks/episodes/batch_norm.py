"""Batch normalisation and ReLU of many runs, with first and second derivatives; in C where it fits.

Maps are `[runs, rows, channels]`: a run's rows are its images and places, and it has statistics of
its own. With a the maps, means over rows, s = (var a + eps)^(-1/2), n = (a - mean a) s and
k = scale s, and with g the gradient by y = relu(scale n + shift) where y is positive, the gradient
by a is (Ioffe & Szegedy 2015, arXiv 1502.03167, section 3)

    k (g - mean(g) - n mean(g n))
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.c_library import addresses, call_c
from meta_train.tasks.episodes.convolution import fits


class Normalised(NamedTuple):
    """Results of the forward pass that the derivatives read.

    Attributes:
        y: relu(scale n + shift), `[runs, rows, channels]`.
        normal: n.
        spread: s, `[runs, channels]`.
        scale: the scale as it was given, `[runs, channels]`.
    """

    y: Tensor
    normal: Tensor
    spread: Tensor
    scale: Tensor


def normalise(maps: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Normalised:
    """Normalise, scale and rectify; overwrites the maps.

    Args:
        maps: `[runs, rows, channels]`.
        scale: `[runs, channels]`.
        shift: `[runs, channels]`.
        eps: is added to the variance.

    Raises:
        ValueError: scale or shift has another shape; C would leave its memory.
    """
    for name, value in (("scale", scale), ("shift", shift)):
        if value.shape != (len(maps), maps.shape[2]) or value.dtype is not maps.dtype:
            raise ValueError(
                f"{name} must be {maps.dtype} {[len(maps), maps.shape[2]]}, "
                f"got {value.dtype} {list(value.shape)}"
            )
    if fits(maps, maps.shape[2]):
        own, shift = scale.contiguous(), shift.contiguous()
        spread, y = torch.empty_like(own), torch.empty_like(maps)
        places = addresses([maps, own, shift, spread, y])
        call_c("batch_norm", _sizes(maps), places, eps, _threads(maps))
        return Normalised(y, maps, spread, scale)
    maps -= maps.mean(1, keepdim=True)
    spread = (maps.square().mean(1) + eps).rsqrt()
    normal = maps.mul_(spread.unsqueeze(1))
    y = torch.addcmul(shift.unsqueeze(1), normal, scale.unsqueeze(1)).relu_()
    return Normalised(y, normal, spread, scale)


def gradient(grad: Tensor, seen: Normalised) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by the maps, by scale and by shift.

    Args:
        grad: by y, `[runs, rows, channels]`.
        seen: the result of `normalise`.
    """
    if fits(grad, grad.shape[2]):
        grad = grad.contiguous()
        by_maps, scale = torch.empty_like(grad), seen.scale.contiguous()
        by_scale, by_shift = torch.empty_like(scale), torch.empty_like(scale)
        places = addresses([grad, *seen[:3], scale, by_maps, by_scale, by_shift])
        call_c("batch_norm_gradient", _sizes(grad), places, _threads(grad))
        return by_maps, by_scale, by_shift
    g = _where_positive(grad, seen.y)
    mean, along = _mean(g), _mean(g * seen.normal)
    by_maps = torch.addcmul(g - mean, seen.normal, along, value=-1)
    by_maps *= (seen.scale * seen.spread).unsqueeze(1)
    count = grad.shape[1]
    return by_maps, count * along.squeeze(1), count * mean.squeeze(1)


def second_derivatives(
    t: Tensor, to_scale: Tensor, to_shift: Tensor, grad: Tensor, seen: Normalised
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `gradient`'s results by `grad`, by the maps and by scale.

    Args:
        t: the gradient by the gradient by the maps, `[runs, rows, channels]`.
        to_scale: the gradient by the gradient by scale, `[runs, channels]`.
        to_shift: the same by shift.
        grad: see `gradient`.
        seen: the result of `normalise`.
    """
    if fits(grad, grad.shape[2]):
        grad, t = grad.contiguous(), t.contiguous()
        to_scale, to_shift = to_scale.contiguous(), to_shift.contiguous()
        by_grad, by_maps = torch.empty_like(grad), torch.empty_like(grad)
        scale, by_scale = seen.scale.contiguous(), torch.empty_like(to_scale)
        places = addresses(
            [grad, *seen[:3], scale, t, to_scale, to_shift, by_grad, by_maps, by_scale]
        )
        call_c("batch_norm_second", _sizes(grad), places, _threads(grad))
        return by_grad, by_maps, by_scale
    y, normal, spread, scale = seen.y, seen.normal, *(v.unsqueeze(1) for v in seen[2:])
    g, factor = _where_positive(grad, y), scale * spread
    mean, along, mean_t, along_t = _mean(g), _mean(g * normal), _mean(t), _mean(t * normal)
    product = _mean(t * g) - mean * mean_t - along * along_t
    # By g: directly, and through the gradient by scale.
    rest = to_scale.unsqueeze(1) - factor * along_t
    by_g = to_shift.unsqueeze(1) - factor * mean_t + factor * t + rest * normal
    # By n and s, and on to the maps.
    slope = factor * along
    of_normal = slope * along_t - rest * along - factor * product
    by_maps = spread * (slope * mean_t - rest * mean - slope * t + rest * g + of_normal * normal)
    return _where_positive(by_g, y), by_maps, grad.shape[1] * (spread * product).squeeze(1)


def _where_positive(grad: Tensor, y: Tensor) -> Tensor:
    result: Tensor = torch.ops.aten.threshold_backward(grad, y, 0)
    return result


def _mean(rows: Tensor) -> Tensor:
    return rows.mean(1, keepdim=True)


def _sizes(maps: Tensor) -> NDArray[np.int64]:
    return np.array(maps.shape, dtype=np.int64)


def _threads(maps: Tensor) -> int:
    return min(torch.get_num_threads(), len(maps))
