"""The 18 features of a tensor that the step-size LSTM reads, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from learned_opt.rules.parts.tensor_directions import (
    BETA_FAST,
    BETA_SLOW,
    TINY,
    ScaledDirections,
    Statistics,
)

RMS_FLOOR = 1e-3
"""Added to the RMS of a parameter before its logarithm, for tensors that start at zero."""

BETA_LOG = 0.95
"""Decay of the running mean of the log gradient RMS."""

FEATURES: Mapping[str, tuple[float, float]] = {
    "surprise": (0.0, 1.0),  # log gradient RMS minus its running mean
    "cosine_m9": (0.0, 2.0),  # of gradient and m9
    "cosine_m99": (0.0, 2.0),  # of gradient and m99
    "cosine_adam": (0.0, 2.0),  # of gradient and the last Adam direction
    "log_adam": (-1.0, 1.0),  # log RMS of m9 / sqrt v
    "log_slow_adam": (-1.5, 1.0),  # log RMS of m99 / sqrt v
    "log_relative_step": (-4.0, 0.5),  # log of step size over parameter RMS
    "log_growth": (0.0, 1.0),  # log of parameter RMS over its initial value
    "progress": (0.5, 2.0),  # t / T
    "log_step": (4.5, 0.5),  # log t
    "log_planned": (6.0, 0.5),  # log T
    "mean_cosine": (0.0, 2.0),  # mean over tensors of cosine_m9
    "is_vector": (0.0, 1.0),  # or a scalar
    "log_size": (6.0, 0.3),  # log of the number of elements
    "has_loss": (0.0, 1.0),
    "loss_to_slow": (0.0, 2.0),  # log loss, fast mean over slow mean
    "loss_to_first": (0.0, 0.5),  # log loss, fast mean over first
    "loss_to_best": (0.0, 2.0),  # log loss, fast mean over best
}
"""(shift, scale) of each feature. The LSTM reads (x - shift) * scale, clamped to +-4."""


class Scalars(NamedTuple):
    """The numbers that the state of a tensor keeps; `[n]` each, side by side in `scalars`."""

    log_scale: Tensor
    """A: the learned drift of the log step size."""
    initial_rms: Tensor
    mean_log_gradient: Tensor
    losses_seen: Tensor
    loss_fast: Tensor
    loss_slow: Tensor
    loss_first: Tensor
    loss_best: Tensor


def read_features(
    statistics: Statistics,
    scaled_rms: ScaledDirections,
    scalars: Scalars,
    step: Tensor,
    planned: Tensor,
    step_size: Tensor,
    loss: Tensor | None,
) -> tuple[Tensor, Scalars]:
    """Compute the features of n tensors.

    Args:
        statistics: of this step.
        scaled_rms: RMS of the directions over sqrt(v), bias-corrected, `[n]` each.
        scalars: before the step.
        step: number of the step, counted from 1, `[n]`.
        planned: planned number of steps, 0-dim.
        step_size: the scheduled step size with the rule's default `lr`, `[n]`.
        loss: 0-dim, or None without one.

    Returns:
        Features, `[n, 18]`, in the order of `FEATURES` and not yet shifted and scaled; and the
        scalars after the step.
    """
    logs = _logarithms(
        gradient=statistics.rms.gradient,
        adam=scaled_rms.adam,
        slow_adam=scaled_rms.slow_adam,
        step_size=step_size,
        rms=statistics.rms.parameter + RMS_FLOOR,
        initial_rms=scalars.initial_rms + RMS_FLOOR,
        step=step,
        planned=planned.expand_as(step),
        size=statistics.size,
    )
    surprise, mean_log_gradient = _surprise(logs["gradient"], statistics.is_first, scalars)
    scalars = _follow_loss(scalars._replace(mean_log_gradient=mean_log_gradient), loss)
    features = {
        "surprise": surprise,
        "cosine_m9": statistics.cosine.m9,
        "cosine_m99": statistics.cosine.m99,
        "cosine_adam": statistics.cosine.adam,
        "log_adam": logs["adam"],
        "log_slow_adam": logs["slow_adam"],
        "log_relative_step": logs["step_size"] + scalars.log_scale - logs["rms"],
        "log_growth": logs["rms"] - logs["initial_rms"],
        "progress": progress(step, planned),
        "log_step": logs["step"],
        "log_planned": logs["planned"],
        "mean_cosine": _mean_cosine(statistics).expand_as(step),
        "is_vector": statistics.is_vector,
        "log_size": logs["size"],
        **_loss_features(scalars, loss),
    }
    return torch.stack([features[name] for name in FEATURES], dim=-1), scalars


def progress(step: Tensor, planned: Tensor) -> Tensor:
    """The share of the planned steps that is done, `[n]`, at most 1; `step` counts from 1."""
    return ((step - 1) / planned).clamp(0, 1)


def _mean_cosine(statistics: Statistics) -> Tensor:
    """The mean over tensors of the cosine of gradient and m9, 0-dim.

    Tensors whose gradient is not finite are skipped, so they do not count.
    """
    cosine = statistics.cosine.m9
    counted = cosine.isfinite() & statistics.norm.gradient.isfinite()
    total = torch.where(counted, cosine, 0.0).sum()
    return total / counted.sum().clamp(min=1)


def _logarithms(**values: Tensor) -> dict[str, Tensor]:
    """The logarithms of values, `[n]` each, by one operation."""
    logs = torch.stack(list(values.values()), dim=-1).log()
    return dict(zip(values, logs.unbind(-1), strict=True))


def _surprise(log_gradient: Tensor, is_first: Tensor, scalars: Scalars) -> tuple[Tensor, Tensor]:
    """Log gradient RMS minus its running mean, and the new mean, `[n]` each."""
    surprise = log_gradient - scalars.mean_log_gradient
    surprise = torch.where(is_first, 0.0, surprise).clamp(-4, 4)
    moved = scalars.mean_log_gradient + (1 - BETA_LOG) * surprise
    return surprise, torch.where(is_first, log_gradient, moved)


def _follow_loss(scalars: Scalars, loss: Tensor | None) -> Scalars:
    """Update the running means, the first and the best of the loss."""
    if loss is None:
        return scalars
    is_first = scalars.losses_seen == 0
    loss = loss.to(scalars.losses_seen.dtype).reshape(()).expand_as(scalars.losses_seen)

    def unless_first(moved: Tensor) -> Tensor:
        return torch.where(is_first, loss, moved)

    fast = unless_first(torch.lerp(scalars.loss_fast, loss, 1 - BETA_FAST))
    return scalars._replace(
        losses_seen=scalars.losses_seen + 1,
        loss_fast=fast,
        loss_slow=unless_first(torch.lerp(scalars.loss_slow, loss, 1 - BETA_SLOW)),
        loss_first=unless_first(scalars.loss_first),
        loss_best=unless_first(torch.minimum(scalars.loss_best, fast)),
    )


def _loss_features(scalars: Scalars, loss: Tensor | None) -> dict[str, Tensor]:
    """Whether there is a loss, and the logarithms of its ratios, `[n]` each; 0 without one."""
    has_loss = torch.full_like(scalars.losses_seen, float(loss is not None))
    if loss is None:
        to_slow = to_first = to_best = has_loss
    else:
        others = torch.stack([scalars.loss_slow, scalars.loss_first, scalars.loss_best], dim=-1)
        ratios = _log_ratio(scalars.loss_fast.unsqueeze(-1), others)
        to_slow, to_first, to_best = ratios.unbind(-1)
    return {
        "has_loss": has_loss,
        "loss_to_slow": to_slow,
        "loss_to_first": to_first,
        "loss_to_best": to_best,
    }


def _log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log(a / b), or 2 (a - b) / (|a| + |b|) where not both are positive."""
    positive = (b > 0) & (a > 0)
    logarithm = torch.where(positive, a, 1.0).log() - torch.where(positive, b, 1.0).log()
    difference = 2 * (a - b) / (a.abs() + b.abs() + TINY)
    return torch.where(positive, logarithm, difference)
