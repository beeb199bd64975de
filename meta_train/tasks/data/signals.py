"""Signals: classes of short one-dimensional signals, made by a recipe; nothing is read from files.

The recipe is that of MNIST-1D (Greydanus 2020, arXiv 2011.14439): a template of 12 points is
padded, shifted, scaled and sheared, and gets smooth and independent noise. There the templates are
ten digits. Here each class has a random smooth one, so that there are enough classes for few-shot
learning.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from learned_opt.registry import look_up

CLASSES = {"train": 64, "validation": 20, "test": 40}
PER_CLASS = 50
TEMPLATE = 12
"""Points of a template."""
PADDING = (36, 60)
"""Bounds of the number of zeros after the template."""
LENGTH = TEMPLATE + PADDING[1]
SHIFT = 48
"""Largest shift, in points of `LENGTH`; the signal is a ring."""
SCALE, SHEAR = 0.4, 0.75
"""Widths of the ranges of the height (around 1) and of the slope (around 0)."""
SMOOTH_NOISE, NOISE = 0.25, 0.02
SMOOTHING = 2.0
"""Standard deviation of the smoothing of noise, in points."""
POINTS = 40
"""Points of a signal."""
RANGE = 4.0
"""Signals are stored as bytes: 0 is minus this, 255 is plus this."""


@functools.cache
def read_signals(split: str) -> Tensor:
    """Signals of a split, `[classes, 50, 1, 40]`, uint8: rows of a picture of height 1.

    The classes of the three splits are different ones, and always the same.

    Args:
        split: "train", "validation" or "test".

    Raises:
        ValueError: an unknown split.
    """
    classes = look_up("split", split, CLASSES)
    generator = torch.Generator().manual_seed(list(CLASSES).index(split))
    drawn = _signals(_templates(classes, generator), generator)
    stored = ((drawn + RANGE) * (255 / (2 * RANGE))).round().clamp(0, 255)
    return stored.to(torch.uint8).unsqueeze(2)


def _templates(classes: int, generator: torch.Generator) -> Tensor:
    """Random smooth templates with unit variance, `[classes, 12]`."""
    rough = torch.randn(classes, TEMPLATE + 2, generator=generator, dtype=torch.float64)
    smooth = rough[:, :-2] / 4 + rough[:, 1:-1] / 2 + rough[:, 2:] / 4
    return smooth / smooth.std(1, keepdim=True)


def _signals(templates: Tensor, generator: torch.Generator) -> Tensor:
    """Signals of each template, `[classes, 50, 40]`, in float64."""
    shape = (len(templates), PER_CLASS, 1)

    def uniform() -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    def normal() -> Tensor:
        size = (*shape[:2], LENGTH)
        return torch.randn(size, generator=generator, dtype=torch.float64)

    first, last = PADDING
    length = TEMPLATE + first + ((last - first + 1) * uniform()).floor()
    shift = (SHIFT * uniform()).floor().long()
    # All have LENGTH points after this, those with less padding a wider template.
    points = torch.arange(LENGTH).expand(*shape[:2], LENGTH)
    places = ((points - shift) % LENGTH) * ((length - 1) / (LENGTH - 1))
    padded = torch.nn.functional.pad(templates, (0, PADDING[1] + 1))
    signals = _interpolate(padded.unsqueeze(1).expand(-1, PER_CLASS, -1), places)
    signals = signals * (1 + SCALE * (uniform() - 0.5)) + SMOOTH_NOISE * _smoothed(normal())
    slope = torch.linspace(-0.5, 0.5, LENGTH, dtype=torch.float64)
    signals = signals - SHEAR * (uniform() - 0.5) * slope
    last_places = torch.linspace(0, LENGTH - 1, POINTS, dtype=torch.float64)
    short = _interpolate(signals, last_places.expand(*shape[:2], POINTS))
    return short + NOISE * normal()[..., :POINTS]


def _interpolate(values: Tensor, places: Tensor) -> Tensor:
    """Values `[..., M]` at places `[..., N]` from 0 to M - 1, linear between points: `[..., N]`."""
    left = places.floor().clamp(max=values.shape[-1] - 2)
    part = places - left
    index = left.long()
    return values.gather(-1, index) * (1 - part) + values.gather(-1, index + 1) * part


def _smoothed(noise: Tensor) -> Tensor:
    """A normal kernel over rings of points."""
    points = torch.arange(noise.shape[-1], dtype=torch.float64)
    distance = (points[:, None] - points).abs()
    distance = torch.minimum(distance, noise.shape[-1] - distance)
    kernel = (-0.5 * (distance / SMOOTHING).square()).exp()
    return noise @ (kernel / kernel.sum(0))
