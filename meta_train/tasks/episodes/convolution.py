"""Convolution of many runs, each with its own weights, and its two gradients; in C where it fits.

Maps are channels-last, `[runs, images, H, W, channels]`, and weights are as torch has them, `[runs,
out, in, kernel height, kernel width]`. torch has no fast way on a CPU: `vmap` makes grouped
convolutions, batched products need copies of all image patches, and both go through kernels that
are slow for a few images.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad as nn_grad

from learned_opt.c_library import addresses, call_c, load_library

COLUMNS = 64
"""C computes this many channels together."""


class Geometry(NamedTuple):
    """Sizes of a convolution, each (height, width).

    Attributes:
        kernel: size of the kernel.
        step: stride of the kernel.
        padding: zeros on each side.
    """

    kernel: tuple[int, int]
    step: tuple[int, int]
    padding: tuple[int, int]

    def places(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output."""
        sizes = zip((height, width), self.kernel, self.step, self.padding, strict=True)
        down, across = ((size + 2 * pad - k) // step + 1 for size, k, step, pad in sizes)
        return down, across


def convolve(x: Tensor, weight: Tensor, geometry: Geometry, into: Tensor | None = None) -> Tensor:
    """The convolution of each run, `[runs, images, H', W', out]`.

    Args:
        x: `[runs, images, H, W, in]`.
        weight: `[runs, out, in, kernel height, kernel width]`.
        geometry: of the convolution.
        into: is added to, and returned, in place of a new tensor.
    """
    if not fits(x, weight.shape[1]):
        found = [
            F.conv2d(_first(maps), own, stride=geometry.step, padding=geometry.padding)
            for maps, own in zip(x, weight, strict=True)
        ]
        return _added(into, torch.stack(found).permute(0, 1, 3, 4, 2))
    shape = (*x.shape[:2], *geometry.places(*x.shape[2:4]), weight.shape[1])
    out = x.new_empty(shape) if into is None else into
    _call("convolve", (x, weight, out), x.shape, weight.shape[1], geometry, into)
    return out


def by_weight(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, into: Tensor | None = None
) -> Tensor:
    """The gradient by the weight, shaped like it; `weight` gives only the shape.

    Args:
        grad: by the output, `[runs, images, H', W', out]`.
        x: the input.
        weight: the weight.
        geometry: of the convolution.
        into: see `convolve`.
    """
    if not fits(x, weight.shape[1]):
        found = [
            nn_grad.conv2d_weight(
                _first(maps), weight.shape[1:], _first(own), geometry.step, geometry.padding
            )
            for maps, own in zip(x, grad, strict=True)
        ]
        return _added(into, torch.stack(found))
    out = x.new_empty(weight.shape) if into is None else into
    _call("convolution_by_weight", (x, out, grad), x.shape, weight.shape[1], geometry, into)
    return out


def by_input(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, into: Tensor | None = None
) -> Tensor:
    """The gradient by the input, shaped like it; `x` gives only the shape.

    Args: see `by_weight`.
    """
    if not fits(x, weight.shape[1]) or x.shape[4] % COLUMNS:
        shape = _first(x[0]).shape
        found = [
            nn_grad.conv2d_input(shape, own, _first(maps), geometry.step, geometry.padding)
            for maps, own in zip(grad, weight, strict=True)
        ]
        return _added(into, torch.stack(found).permute(0, 1, 3, 4, 2))
    out = x.new_empty(x.shape) if into is None else into
    _call("convolution_by_input", (out, weight, grad), x.shape, weight.shape[1], geometry, into)
    return out


def fits(x: Tensor, channels: int) -> bool:
    """Whether C can compute a convolution with `channels` output channels."""
    fitting = type(x) is Tensor and x.dtype is torch.float32 and x.is_cpu
    return fitting and channels % COLUMNS == 0 and load_library() is not None


def _call(
    function: str,
    places: tuple[Tensor, Tensor, Tensor],
    shape: torch.Size,
    channels: int,
    geometry: Geometry,
    into: Tensor | None,
) -> None:
    _check(places, shape, channels, geometry)
    # A name for each: memory that nothing holds would be used again.
    contiguous = [value.contiguous() for value in places]
    threads = min(torch.get_num_threads(), shape[0])
    sizes = _sizes(tuple(shape), channels, geometry)
    call_c(function, sizes, addresses(contiguous), int(into is not None), threads)


def _check(
    places: tuple[Tensor, Tensor, Tensor], shape: torch.Size, channels: int, geometry: Geometry
) -> None:
    """Check input, weight and output: C would leave the memory of those that are too small.

    Raises:
        ValueError: another shape or dtype than the input and the geometry ask for.
    """
    runs, images, height, width, inputs = shape
    down, across = geometry.places(height, width)
    if min(down, across) < 1:
        raise ValueError(f"a kernel of {geometry.kernel} is larger than maps of {height, width}")
    wanted = (
        ("the input", (runs, images, height, width, inputs)),
        ("the weight", (runs, channels, inputs, *geometry.kernel)),
        ("the output", (runs, images, down, across, channels)),
    )
    for (name, size), value in zip(wanted, places, strict=True):
        if value.shape != size:
            raise ValueError(f"{name} must have shape {list(size)}, got {list(value.shape)}")
        if value.dtype is not torch.float32 or not value.is_cpu:
            raise ValueError(f"{name} must be float32 on the CPU, got {value.dtype}")


@functools.lru_cache(maxsize=256)
def _sizes(shape: tuple[int, ...], channels: int, geometry: Geometry) -> NDArray[np.int64]:
    return np.array([*shape, channels, *(n for pair in geometry for n in pair)], dtype=np.int64)


def _first(maps: Tensor) -> Tensor:
    """Channels-last maps of one run with channels first."""
    return maps.permute(0, 3, 1, 2)


def _added(into: Tensor | None, found: Tensor) -> Tensor:
    return found.contiguous() if into is None else into.add_(found)
