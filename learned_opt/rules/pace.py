"""Lengthens and shortens the steps of a tensor by the cosine of its gradient and momentum.

Where gradients go on pointing the same way, steps could be longer; where they turn back at every
step, steps are longer than the valley is wide; where they are noise, the cosine is near 0. The
cosine has no scale, and it adds up over the logarithm of the step number, so that a run of any
length has the same room to adapt. A cosine of -1 at every step multiplies the schedule by t^-0.6:
without noise, steps that cross the valley fall about as 1/t in place of 1/sqrt(t).
"""

from __future__ import annotations

import torch
from torch import Tensor

RISE, FALL = 0.9, 0.6
"""Change of the pace over one unit of the logarithm of the step number, for each unit of the
cosine above `NOISE` and below 0."""

NOISE = 0.2
"""Cosines from 0 to this lengthen no step: noise has some of them by chance, and small batches when
they recover from a step that was too long."""

DELAY = 10.0
"""Added to the step number, lest a few first steps decide."""

SLOWEST = -3.0
"""The smallest pace."""

FASTEST_MATRIX, FASTEST_VECTOR = 1.0, 0.0
"""The largest pace. Steps of vectors are never longer than without it."""

UNEQUAL = 1e-4
"""Vectors whose lengths have a ratio below this are too unequal to find their cosine."""


def next_pace(pace: Tensor, cosine: Tensor, step: Tensor, *, matrix: bool) -> Tensor:
    """The logarithm of the factor on the step, from its last value.

    Args:
        pace: the last value; 0 at first.
        cosine: of the gradient and the momentum before it.
        step: the number of this step, from 1.
        matrix: whether the tensor is stepped as a matrix.
    """
    change = RISE * (cosine - NOISE).clamp(min=0) + FALL * cosine.clamp(max=0)
    fastest = FASTEST_MATRIX if matrix else FASTEST_VECTOR
    return (pace + change / (step + DELAY)).clamp(SLOWEST, fastest)


def cosine_from_lengths(gradient: Tensor, momentum: Tensor, mixed: Tensor, keep: float) -> Tensor:
    """The cosine of g and m from the lengths of g, m and keep m + (1 - keep) g.

    So a tensor that is spread over processes or passes needs lengths only. In float32 the result is
    good to about 1e-6 over the ratio of the shorter to the longer of the two.

    Args:
        gradient: lengths, or RMS, of any shape.
        momentum: of the same shape.
        mixed: of the same shape.
        keep: in [0, 1).

    Returns:
        In [-1, 1]; 0 where it cannot be told.
    """
    kept, added = keep * momentum, (1 - keep) * gradient
    told = torch.minimum(kept, added) > UNEQUAL * torch.maximum(kept, added)
    # Not divided where it is not told: zero would spoil the derivative.
    kept, added, whole = (torch.where(told, x, 1.0) for x in (kept, added, mixed))
    ratio, relative = added / kept, whole / kept
    cosine = (relative * relative - 1 - ratio * ratio) / (2 * ratio)
    return torch.where(told, cosine.clamp(-1, 1), 0.0)
