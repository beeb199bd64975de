"""Turns gradients into network inputs: pure functions, safe to differentiate at zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NORM_BLOCK = 1 << 16
"""Elements whose squares are added up at once in a norm."""

RECENT_DECAY = 0.5
"""The recent size of a gradient halves with each step without one."""

UNKNOWN = 1e-3
"""`log_sign` reads gradients below this share of e^-p as (-1, 0): their sign and size are lost."""


def log_sign(value: Tensor, p: float) -> Tensor:
    """Split numbers of any magnitude into a bounded logarithm and a sign.

    (log|x| / p, sign x) where |x| >= e^-p, else (-1, e^p x): Andrychowicz et al. 2016
    (arXiv 1606.04474), appendix A. Continuous at |x| = e^-p, and linear through zero.

    Args:
        value: `[*shape]`.
        p: magnitudes down to e^-p are read by their logarithm, smaller ones linearly.

    Returns:
        `[*shape, 2]`.
    """
    threshold = math.exp(-p)
    magnitude = value.abs()
    large = magnitude >= threshold
    logarithm = torch.where(large, magnitude, torch.ones_like(magnitude)).log() / p
    first = torch.where(large, logarithm, -torch.ones_like(value))
    second = torch.where(large, value.sign(), value * math.exp(p))
    return torch.stack([first, second]).movedim(0, -1)  # unit by unit in memory


def recent_size(last: Tensor, gradient: Tensor) -> Tensor:
    """The recent size of a gradient: its largest magnitude, halved with each step since."""
    return torch.maximum(gradient.abs(), RECENT_DECAY * last)


def known_share(recent: Tensor, p: float) -> Tensor:
    """The factor on an update that a network writes from `log_sign` of gradients.

    1 where the recent size is at least 0.001 e^-p, and in proportion below. From a gradient of 1,
    with p = 10, an update stays whole for 24 steps without a gradient; then it halves with each.
    No derivative flows through it: its slope is 1000 e^p.
    """
    return (recent.detach() / smallest_known(p)).clamp(max=1)


def smallest_known(p: float) -> float:
    """The smallest gradient whose sign and size `log_sign` tells."""
    return max(UNKNOWN * math.exp(-p), 1e-30)


def safe_sqrt(value: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0, not infinity.

    A coordinate that never saw a gradient has a second moment of exactly 0; `sqrt` would turn its
    meta-gradient into NaN (0 * inf).
    """
    zero = value == 0
    return torch.where(zero, torch.ones_like(value), value).sqrt().masked_fill(zero, 0)


def moving_average(average: Tensor, value: Tensor, beta: float | Tensor) -> Tensor:
    """One step of an exponential moving average: beta * average + (1 - beta) * value."""
    return beta * average + (1 - beta) * value


def moving_square(average: Tensor, value: Tensor, beta: float | Tensor) -> Tensor:
    """One step of a moving average of squares: beta * average + (1 - beta) * value^2.

    Multiplied from the left, so that it overflows no earlier than in torch.optim.
    """
    return beta * average + (1 - beta) * value * value


def euclidean_norm(value: Tensor) -> Tensor:
    """The Euclidean norm of all elements, 0-dim.

    By blocks: on a CPU, `vector_norm` adds up in float32, and is 4% off at 1e8 elements.
    """
    while value.numel() > NORM_BLOCK:
        flat = value.reshape(-1)
        whole = len(flat) // NORM_BLOCK * NORM_BLOCK
        blocks = torch.linalg.vector_norm(flat[:whole].reshape(-1, NORM_BLOCK), dim=-1)
        rest = torch.linalg.vector_norm(flat[whole:]).reshape(1)
        value = torch.cat([blocks, rest])
    norm: Tensor = torch.linalg.vector_norm(value)
    return norm


def bias_correction(step: Tensor, beta: float | Tensor) -> Tensor:
    """The factor 1 - beta^step by which an average that started at 0 is too small.

    By `expm1`: in float32, 1 - 0.999**1 would keep only four digits.
    """
    if isinstance(beta, Tensor):
        return -torch.expm1(step * beta.log())
    if beta == 0:
        return torch.ones_like(step)
    return -torch.expm1(step * math.log(beta))
