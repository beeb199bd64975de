"""Panel 1: the first update against the gradient, over the gradients that a training meets."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from learned_opt.explanation.measurements.probe import Probe
from learned_opt.explanation.measurements.trainings import TrainingStep
from learned_opt.rules.base import UpdateRule

DECADES = (-16.0, 4.0)
"""Gradients from 1e-16 to 1e4 of the typical one are probed."""

PER_DECADE = 20
BACKGROUNDS = 32
"""Draws of the other coordinates' gradients, half of them the negatives of the others."""

HALF_SLOPE = 0.5
"""Where log update grows at less than this per log gradient, the update is clipped."""

QUANTILES = 513


@dataclass(frozen=True)
class GradientDensity:
    """Sizes of the gradients that a training met.

    Attributes:
        typical: the standard deviation of normal numbers with the same median magnitude.
        sizes: quantiles of the magnitudes that are not 0, in order, at even steps.
    """

    typical: float
    sizes: tuple[float, ...]

    @classmethod
    def of(cls, gradients: Iterable[Tensor]) -> GradientDensity:
        """Measure tensors of any shape.

        Raises:
            ValueError: all gradients are zero.
        """
        values = torch.cat([one.reshape(-1).double().abs() for one in gradients])
        values = values[values > 0].sort().values
        if not len(values):
            raise ValueError("the training met no gradient other than zero")
        places = ((torch.arange(QUANTILES) + 0.5) / QUANTILES * len(values)).long()
        median = values[len(values) // 2].item()
        # The median of |x| for standard normal x.
        return cls(median / 0.6744897501960817, tuple(values[places].tolist()))

    @classmethod
    def met_in(cls, steps: Iterable[TrainingStep]) -> GradientDensity:
        """Measure the gradients of a training."""
        return cls.of(gradient for step in steps for gradient in step.gradients)


@dataclass(frozen=True)
class UpdateCurve:
    """The update of a fresh coordinate as a function of its gradient.

    Attributes:
        gradients: positive, in order.
        updates: of those gradients, positive where the coordinate descends.
        negative: of their negatives, positive where the coordinate descends.
        clipping: the gradient above which updates grow less than with the root of the gradient;
            None if they grow faster at all sizes probed.
        clipped: the share of the gradients met above `clipping`.
        like_gradient: cosine of update and gradient over the gradients met.
        like_sign: cosine of update and sign of the gradient over the gradients met.
    """

    gradients: tuple[float, ...]
    updates: tuple[float, ...]
    negative: tuple[float, ...]
    clipping: float | None
    clipped: float
    like_gradient: float
    like_sign: float

    def sentence(self) -> str:
        """Describes the measurement."""
        text = f"The first update {self._shape()}"
        if self.clipped > 0.995:  # a rule that is like the sign everywhere has no clipping point
            return f"{text}."
        if self.clipped < 0.005:
            return f"{text}; no gradient met is clipped."
        return f"{text}; {100 * self.clipped:.0f}% of the gradients met are clipped."

    def _shape(self) -> str:
        """The shape of the curve, over the gradients met."""
        like, sign = self.like_gradient, self.like_sign
        if abs(max(like, sign, key=abs)) < 0.005:
            return "is unrelated to the gradient"
        if max(like, sign) <= 0:
            return f"goes uphill (cosine {sign:.2f} with the gradient's sign)"
        if like > 0.995:
            return "is proportional to the gradient"
        if sign > 0.995:
            return "has the gradient's sign, and one size for all gradients"
        if sign > like:
            nearest = f"the gradient's sign (cosine {sign:.2f})"
            return f"is closer to {nearest} than to the gradient ({like:.2f})"
        return f"is closer to the gradient (cosine {like:.2f}) than to its sign ({sign:.2f})"


def measure_update_curve(rule: UpdateRule, density: GradientDensity) -> UpdateCurve:
    """Measure the first update at gradients of both signs over twenty decades.

    For a rule of whole tensors the other coordinates have normal gradients of the typical size; the
    update is a mean over pairs of such backgrounds and their negatives.
    """
    probe = Probe(rule)
    count = int((DECADES[1] - DECADES[0]) * PER_DECADE) + 1
    exponents = torch.linspace(*DECADES, count, dtype=torch.float64)
    sizes = density.typical * 10**exponents
    values = torch.cat([sizes, -sizes]).to(rule.dtype)
    updates = _first_updates(probe, values, density.typical)
    updates = torch.where(values == 0, torch.zeros_like(updates), updates)
    positive, negative = -updates[:count], updates[count:]
    odd = (positive + negative) / 2
    clipping = _clipping(sizes, odd)
    met = torch.tensor(density.sizes, dtype=torch.float64)
    at_met = _interpolate(met, sizes, odd)
    return UpdateCurve(
        gradients=tuple(sizes.tolist()),
        updates=tuple(positive.tolist()),
        negative=tuple(negative.tolist()),
        clipping=clipping,
        clipped=0.0 if clipping is None else (met > clipping).double().mean().item(),
        like_gradient=_cosine(at_met, met),
        like_sign=_cosine(at_met, torch.ones_like(met)),
    )


def _first_updates(probe: Probe, values: Tensor, size: float) -> Tensor:
    """The update at each gradient, `[n]`."""
    if probe.alone:
        return probe.pick(probe.run(values.unsqueeze(0))[0])[0]
    half = probe.noise(1, BACKGROUNDS // 2, size, seed=1)[0]
    total = torch.zeros(len(values), dtype=torch.float64)
    for background in (*half, *-half):
        gradients = probe.place(background.expand(1, len(values), *background.shape), values[None])
        population = probe.begin(1).repeat(len(values))
        total += probe.pick(probe.run(gradients, population)[0])[0]
    return total / BACKGROUNDS


def _clipping(sizes: Tensor, updates: Tensor) -> float | None:
    """The largest size at which updates still grow with the root of the size."""
    logs = updates.clamp(min=1e-300).log()
    slopes = logs.diff() / sizes.log().diff()
    growing = (slopes >= HALF_SLOPE).nonzero().reshape(-1)
    if not len(growing):
        return sizes[0].item()
    last = int(growing[-1])
    if last == len(slopes) - 1:
        return None
    # Slopes stand between two sizes: the crossing, by linear interpolation.
    between = (sizes[:-1] * sizes[1:]).log() / 2
    share = (slopes[last] - HALF_SLOPE) / (slopes[last] - slopes[last + 1])
    return math.exp(between[last] + share * (between[last + 1] - between[last]))


def _interpolate(points: Tensor, sizes: Tensor, values: Tensor) -> Tensor:
    """Values at points between sizes, linear in the logarithm of the size."""
    right = torch.searchsorted(sizes, points).clamp(1, len(sizes) - 1)
    low, high = sizes[right - 1].log(), sizes[right].log()
    share = ((points.log() - low) / (high - low)).clamp(0, 1)
    return torch.lerp(values[right - 1], values[right], share)


def _cosine(a: Tensor, b: Tensor) -> float:
    norms = a.norm() * b.norm()
    return (a @ b / norms).item() if norms > 0 else 0.0
