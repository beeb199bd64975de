"""The schedule of the step-size LSTM, its coefficients, and the pass that applies them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from learned_opt.rules.parts.features import euclidean_norm
from learned_opt.rules.parts.step_size_features import progress
from learned_opt.rules.parts.tensor_directions import TINY, Mix, TensorDirections
from learned_opt.rules.parts.whole_tensors import LOCAL, WholeTensors

WARM_UP = 0.03
"""The step grows linearly to its full size over this share of the planned steps."""

LAST = 0.01
"""The cosine ends here, not at 0, so that steps past the planned number still move."""


class Coefficients(NamedTuple):
    """Factors on the directions of each tensor in a step, `[n]` each."""

    step_size: Tensor
    """s exp(lm)."""
    target: Tensor
    """RMS that the mix gets: 1, or less where Adam's direction is below its floor."""
    mix: Mix

    def factor(self, rms: Tensor) -> Tensor:
        """The factor that turns a mix of this RMS into the deltas, `[n]`."""
        # At least 1% of the target: where the parts cancel, they are not blown up more than
        # 100-fold.
        scale = self.target / torch.maximum(rms, 0.01 * self.target + TINY)
        return -self.step_size * scale


def combine(
    tensors: Sequence[TensorDirections],
    size: Tensor,
    coefficients: Coefficients,
    whole: WholeTensors = LOCAL,
) -> list[Tensor]:
    """Deltas, `[*param]` each: minus the step size times the mix, scaled to its target RMS."""
    weights = torch.stack(coefficients.mix, dim=-1).unbind()
    mixed = [tensor.mix(row) for tensor, row in zip(tensors, weights, strict=True)]
    rms = size.rsqrt() * whole.norms(torch.stack([euclidean_norm(value) for value in mixed]))
    factors = coefficients.factor(rms).unbind()
    return [factor * value for factor, value in zip(factors, mixed, strict=True)]


def warm_up_and_cosine(step: Tensor, planned: Tensor) -> Tensor:
    """The schedule s_t, `[n]`: up linearly to 1, then down a cosine to `LAST`."""
    warm_up = (step / (WARM_UP * planned).clamp(min=1)).clamp(max=1)
    cosine = 0.5 * (1 + torch.cos(math.pi * progress(step, planned)))
    return warm_up * (LAST + (1 - LAST) * cosine)
