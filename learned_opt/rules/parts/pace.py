"""Lengthens and shortens the steps of a tensor by the cosine of its gradient and momentum.

Where gradients go on pointing the same way, steps could be longer; where they turn back at every
step, steps are longer than the valley is wide; where they are noise, the cosine is near 0. The
cosine has no scale, and it adds up over the logarithm of the step number, so that a run of any
length has the same room to adapt. A cosine of -1 at every step multiplies the schedule by t^-0.6:
without noise, steps that cross the valley fall about as 1/t in place of 1/sqrt(t).

Gradients keep their direction, too, where two networks chase each other, and longer steps make the
chase wilder. There the matrices run far from their averages, so the pace lengthens no step of a
matrix that does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learned_opt.rules.parts.momentum_constants import Number, PaceConstants

DELAY = 10.0
"""Added to the step number, lest a few first steps decide."""

SLOWEST = -3.0
"""The smallest pace."""

USUAL_PACE = PaceConstants()
"""The constants of the default."""

NEAR, FAR = 0.15, 0.2
"""Distances of a matrix from its average, relative to its own RMS. Up to the first the bound on its
pace is that of the constants; from there it falls, and from the second on it is 0. A matrix that
grows from zero in a straight line lies at 0.1."""

UNEQUAL = 1e-4
"""Vectors whose lengths have a ratio below this are too unequal to find their cosine."""


def next_pace(
    pace: Tensor,
    cosine: Tensor,
    step: Tensor,
    *,
    distance: Tensor | None,
    constants: PaceConstants = USUAL_PACE,
) -> Tensor:
    """The logarithm of the factor on the step, from its last value.

    Args:
        pace: the last value; 0 at first.
        cosine: of the gradient and the momentum before it.
        step: the number of this step, from 1.
        distance: of a matrix, its distance from its average over its own length; None for a
            tensor that is stepped as a vector.
        constants: gains and bounds.
    """
    change = constants.rise * (cosine - constants.noise).clamp(min=0)
    change = change + constants.fall * cosine.clamp(max=0)
    if distance is None:
        fastest = constants.fastest_vector
    else:
        fastest = constants.fastest_matrix * ((FAR - distance) / (FAR - NEAR)).clamp(0, 1)
    # One bound at a time: the largest may be a tensor.
    return (pace + change / (step + DELAY)).clamp(min=SLOWEST).clamp(max=fastest)


def cosine_from_lengths(gradient: Tensor, momentum: Tensor, mixed: Tensor, keep: Number) -> Tensor:
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
