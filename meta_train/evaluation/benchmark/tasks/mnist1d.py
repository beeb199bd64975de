"""MNIST-1D: ten shapes on a line, moved, stretched and covered with noise.

Greydanus 2020, "Scaling down deep learning" (arXiv 2011.14439). The recipe is the published one;
the random numbers are others, and there are 24,000 examples for training in place of 4,000, so that
a small network does not learn them by heart.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

SHAPES = np.array(
    [
        [5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5],
        [5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5],
        [5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5],
        [5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5],
        [5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5],
        [5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5],
        [5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5],
        [5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5],
    ]
)
"""The shapes of the digits 0 to 9, `[10, 12]`."""

EXAMPLES, TEST = 25_000, 1000
LENGTH = 40
PADDED = 72
"""Length before the example is reduced to 40 numbers: a shape and the longest padding."""
PADDING = (36, 60)
MOVE, SCALE, SHEAR = 48, 0.4, 0.75
SMOOTH_NOISE, WHITE_NOISE = 0.25, 0.02


@functools.cache
def read_mnist1d() -> tuple[Tensor, Tensor]:
    """Signals `[25000, 40]` and digits `[25000]`, shuffled; the last 1000 are for testing."""
    random = np.random.default_rng(42)
    shapes = (SHAPES - SHAPES.mean(1, keepdims=True)) / SHAPES.std(1, keepdims=True)
    shapes = (shapes - shapes[:, :1]) / 6
    digits = random.permutation(np.arange(EXAMPLES) % 10)
    signals = np.stack([_example(shapes[digit], random) for digit in digits])
    signals = (signals - signals.mean()) / signals.std()
    return torch.tensor(signals, dtype=torch.float32), torch.tensor(digits)


def _example(shape: np.ndarray, random: np.random.Generator) -> np.ndarray:
    # The small number tells the shape, where it is zero, from the padding.
    padded = np.append(shape + 1e-8, np.zeros(random.integers(PADDING[0], PADDING[1] + 1)))
    signal = _resized(padded, PADDED) * (1 + SCALE * (random.random() - 0.5))
    signal = np.roll(signal, random.integers(MOVE))
    signal = np.where(signal != 0, signal, SMOOTH_NOISE * _smooth(random.normal(size=PADDED)))
    signal += WHITE_NOISE * random.normal(size=PADDED)
    signal -= SHEAR * (random.random() - 0.5) * np.linspace(-0.5, 0.5, PADDED)
    return _resized(signal, LENGTH)


def _resized(signal: np.ndarray, length: int) -> np.ndarray:
    places = np.linspace(0, 1, len(signal))
    return np.asarray(np.interp(np.linspace(0, 1, length), places, signal))


def _smooth(noise: np.ndarray) -> np.ndarray:
    """Filtered with a Gaussian of standard deviation 2, mirrored at the ends."""
    weights = np.exp(-(np.arange(-8, 9) ** 2) / 8)
    return np.convolve(np.pad(noise, 8, mode="symmetric"), weights / weights.sum(), mode="valid")
