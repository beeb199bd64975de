"""Colour images that are drawn, not stored: gratings of four orientations and three widths."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

SIZE = 16
"""Side of an image in pixels."""

CLASSES = 12
EXAMPLES, TEST = 13_000, 1000
FREQUENCIES = (1.2, 2.0, 3.2)
"""Mean number of stripes across an image."""
NOISE = 1.0


@functools.cache
def read_textures() -> tuple[Tensor, Tensor]:
    """Images `[13000, 3, 16, 16]` and classes `[13000]`; the last 1000 are for testing.

    A class is one of 4 orientations with one of 3 widths. Angle, width, phase, curvature and both
    colours vary from image to image; white noise of the contrast's size covers them.
    """
    random = torch.Generator().manual_seed(7)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(EXAMPLES, *shape, generator=random)

    classes = torch.randint(CLASSES, (EXAMPLES,), generator=random)
    angle = (classes % 4 + uniform(-0.35, 0.35)) * math.pi / 4
    frequency = torch.tensor(FREQUENCIES)[classes // 4] * uniform(0.85, 1.15)
    line = torch.linspace(-1, 1, SIZE)
    y, x = torch.meshgrid(line, line, indexing="ij")
    along = angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y
    across = angle.cos()[:, None, None] * y - angle.sin()[:, None, None] * x
    bent = along + uniform(-0.25, 0.25, 1, 1) * across**2
    wave = torch.sin(math.pi * frequency[:, None, None] * bent + uniform(0, 2 * math.pi, 1, 1))
    stripes = torch.tanh(uniform(1, 4, 1, 1) * wave)[:, None]
    contrast = torch.randn(EXAMPLES, 3, 1, 1, generator=random)
    contrast = contrast / contrast.norm(dim=1, keepdim=True)
    mean = 0.5 * torch.randn(EXAMPLES, 3, 1, 1, generator=random)
    noise = NOISE * torch.randn(EXAMPLES, 3, SIZE, SIZE, generator=random)
    return mean + contrast * stripes + noise, classes
