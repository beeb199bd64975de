"""Measurements of the rule `general` on each tensor: scale-free, no loss, no number of steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from learned_opt.rules.parts.features import bias_correction, safe_sqrt
from learned_opt.rules.parts.momentum_constants import RMS_FLOOR, RMS_USUAL, SIZE_BETA
from learned_opt.rules.parts.whole_tensors import LOCAL, WholeTensors, one_where_zero

COSINE_BETA = 0.9
"""Decay of the running means of the cosines, which are noisy."""

SMALLEST_RATIO = 1e-3
"""Lower bound on a ratio before its logarithm."""

FEATURES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "surprise": (0.0, 1.0),  # log of gradient RMS over its running mean
        "cosine_momentum": (0.0, 2.0),  # of the gradient and the momentum before it
        "cosine_update": (0.0, 2.0),  # of the update and the way from the average to here
        "cosine_gradient": (0.0, 2.0),  # of the gradient and the way from the average to here
        "log_signal": (-1.0, 1.0),  # log of momentum RMS over mean gradient RMS
        "log_reach": (1.0, 0.5),  # log of the distance from the average, in steps
        "log_step": (4.5, 0.5),  # log t
        "log_size": (6.0, 0.3),  # log of the number of elements
        "log_short": (2.5, 0.5),  # log of the shorter side of the matrix
        "log_rms": (0.0, 0.5),  # log of parameter RMS over the usual one
        "log_growth": (0.0, 1.0),  # log of parameter RMS over its initial value
        "idle_rows": (0.0, 1.0),  # share of rows without gradient
        "mean_cosine": (0.0, 2.0),  # mean over tensors of cosine_momentum
        "log_step_square": (0.0, 1.0),  # square of log_step after shift and scale, minus 1
    }
)
"""(shift, scale) of each feature. The map reads (x - shift) * scale, clamped to +-3."""


class Memory(NamedTuple):
    """The numbers that the state of a tensor keeps, `[n]` each; side by side in `steering`."""

    drift: Tensor
    """A: the part of the log factor that accumulates."""
    initial_rms: Tensor
    cosine_momentum: Tensor
    cosine_update: Tensor
    cosine_gradient: Tensor


class Measurements(NamedTuple):
    """Numbers of n tensors in one step.

    Rows 0 to 5 of a tensor are its gradient, the momentum before and after the step, the way from
    the average to the parameter, the base's step, and the parameter.
    """

    scale: Tensor
    """A magnitude that each row is divided by, about its largest, `[n, 6]`."""
    gram: Tensor
    """Inner products of the rows over their scales, `[n, 6, 6]`."""
    idle_rows: Tensor
    """Share of the matrix's rows without gradient, `[n]`."""


def measure(
    gradients: Sequence[Tensor],
    parameters: Sequence[Tensor],
    deltas: Sequence[Tensor],
    before: Sequence[Mapping[str, Tensor]],
    after: Sequence[Mapping[str, Tensor]],
    tensors: WholeTensors | None = None,
) -> Measurements:
    """Measure n tensors in one step.

    Args:
        gradients: `[*param]` each.
        parameters: before the step, `[*param]` each.
        deltas: the base's steps, `[*param]` each.
        before: the base's states before the step.
        after: the base's states after it.
        tensors: answers about whole tensors, where the others are parts.
    """
    rows = zip(gradients, parameters, deltas, before, after, strict=True)
    scale, gram = map(torch.stack, zip(*[_gram(*one) for one in rows], strict=True))
    if tensors is not None:
        largest, scale = scale, tensors.norms(scale)
        relative = largest / one_where_zero(scale)
        gram = tensors.sums(gram * relative.unsqueeze(-1) * relative.unsqueeze(-2))
    idle = (tensors or LOCAL).idle_rows(dict(enumerate(gradients)))
    return Measurements(scale, gram, torch.stack([idle[k] for k in range(len(gradients))]))


def _gram(
    gradient: Tensor,
    parameter: Tensor,
    delta: Tensor,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Largest magnitudes, `[6]`, and Gram matrix, `[6, 6]`, of one tensor or part."""
    if gradient.numel() == 0:
        return gradient.new_zeros(6), gradient.new_zeros(6, 6)
    away = parameter - after["average"]
    values = gradient, before["m"], after["m"], away, delta, parameter
    rows = torch.stack([value.reshape(-1) for value in values])
    # The scale drops out of the cosines; without it, squares would overflow.
    largest = rows.detach().abs().amax(-1)
    scaled = rows / one_where_zero(largest).unsqueeze(-1)
    return largest, scaled @ scaled.mT


def initial_steering(
    parameter: Tensor, shape: Sequence[int], dtype: torch.dtype, tensors: WholeTensors
) -> Tensor:
    """`Memory` before the first step, `[5]`; for the arguments see `UpdateRule.init_state`."""
    part = torch.linalg.vector_norm(parameter.detach().to(dtype))
    (norm,) = tensors.norms(part.reshape(1))
    rms = norm / math.sqrt(max(math.prod(shape), 1))
    zero = torch.zeros_like(rms)
    return torch.stack(Memory(zero, rms, zero, zero, zero))


def read_features(
    found: Measurements,
    memory: Memory,
    states: Sequence[Mapping[str, Tensor]],
    shapes: Sequence[Sequence[int]],
    scaling: Tensor,
    lr: float,
) -> tuple[Tensor, Memory]:
    """Compute the features of n tensors.

    Args:
        found: of this step.
        memory: before the step.
        states: the base's, after the step.
        shapes: of the parameters, whole.
        scaling: shift and scale of each of `FEATURES`, `[14, 2]`.
        lr: the rule's own learning rate.

    Returns:
        Features, `[n, 14]`, shifted, scaled and clamped; and the memory after the step, with its
        old drift.
    """
    step = torch.stack([state["step"] for state in states])
    usual = torch.stack([state["scalars"][0] for state in states])
    usual = usual / bias_correction(step, SIZE_BETA)
    unbias = 1 / bias_correction(step, COSINE_BETA)
    # Filled in place of copied from a list: no transfer to a GPU.
    size = torch.stack([step.new_full((), max(math.prod(shape), 1)) for shape in shapes])
    short = torch.stack([step.new_full((), _shorter_side(shape)) for shape in shapes])

    norms = safe_sqrt(found.gram.diagonal(dim1=-2, dim2=-1))
    rms = norms * found.scale * size.rsqrt().unsqueeze(-1)
    lengths = norms.unsqueeze(-1) * norms.unsqueeze(-2)
    cosines = found.gram / torch.where(lengths == 0, 1.0, lengths)
    after = memory._replace(
        cosine_momentum=torch.lerp(memory.cosine_momentum, cosines[:, 0, 1], 1 - COSINE_BETA),
        cosine_update=torch.lerp(memory.cosine_update, cosines[:, 4, 3], 1 - COSINE_BETA),
        cosine_gradient=torch.lerp(memory.cosine_gradient, cosines[:, 0, 3], 1 - COSINE_BETA),
    )
    gradient, _, momentum, away, update, parameter = rms.unbind(-1)
    parameter = parameter.clamp(min=RMS_FLOOR)
    cosine_momentum = after.cosine_momentum * unbias
    log_ratios = _log_ratio(
        torch.stack([gradient, momentum, away, parameter, parameter]),
        torch.stack(
            [
                usual,
                usual,
                lr * update,
                torch.full_like(parameter, RMS_USUAL),
                memory.initial_rms.clamp(min=RMS_FLOOR),
            ]
        ),
    )
    surprise, log_signal, log_reach, log_rms, log_growth = log_ratios.unbind()
    values = {
        "surprise": surprise,
        "cosine_momentum": cosine_momentum,
        "cosine_update": after.cosine_update * unbias,
        "cosine_gradient": after.cosine_gradient * unbias,
        "log_signal": log_signal,
        "log_reach": log_reach,
        "log_step": step.log(),
        "log_size": size.log(),
        "log_short": short.log(),
        "log_rms": log_rms,
        "log_growth": log_growth,
        "idle_rows": found.idle_rows,
        "mean_cosine": _mean_of_finite(cosine_momentum).expand_as(step),
    }
    shift, scale = scaling[: len(values)].unbind(-1)
    features = ((torch.stack(list(values.values()), dim=-1) - shift) * scale).clamp(-3, 3)
    square = features[:, list(values).index("log_step")].square() - 1
    return torch.cat([features, square.unsqueeze(-1)], dim=-1), after


def _mean_of_finite(values: Tensor) -> Tensor:
    """The mean without the tensors whose gradient is not finite, 0-dim: their update is skipped."""
    finite = values.isfinite()
    return torch.where(finite, values, 0.0).sum() / finite.sum().clamp(min=1)


def _shorter_side(shape: Sequence[int]) -> int:
    """Of a tensor as a matrix, at least 1; 1 for a vector."""
    if len(shape) < 2:
        return 1
    return max(1, min(shape[0], math.prod(shape[1:])))


def _log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log(a / b), at least log `SMALLEST_RATIO`; 0 where b is 0."""
    ratio = a / torch.where(b == 0, 1.0, b)
    return torch.where(b == 0, 1.0, ratio).clamp(min=SMALLEST_RATIO).log()
