"""Panel 4: update size against gradient scale, over ten decades."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from learned_opt.explanation.measurements.probe import Probe, rms
from learned_opt.rules.base import UpdateRule

DECADES = (-6, 4)
"""Scales from 1e-6 to 1e4 of the typical gradient."""

PER_DECADE = 4
STEPS = 40
LAST = 10
"""Updates are measured over the last ten of 40 steps."""

ALONE, WHOLE = 128, 2
"""Experiments at a scale, with a rule of single coordinates and with one of whole tensors."""

TOLERANCE = 0.1


@dataclass(frozen=True)
class ScaleResponse:
    """RMS of updates under noise of many sizes.

    Attributes:
        scales: standard deviations of the gradients, in order.
        updates: RMS of the updates at each.
        slope: of log update over log gradient, from a tenth of the typical gradient to ten times
            it: 1 is proportional to gradients, 0 is free of their scale.
        low: the smallest scale down to which the local slope stays within 0.1 of it.
        high: the largest scale up to which it does.
        growth: largest update over smallest, over all scales.
    """

    scales: tuple[float, ...]
    updates: tuple[float, ...]
    slope: float
    low: float
    high: float
    growth: float

    def sentence(self) -> str:
        """Describes the measurement."""
        factor = 10**self.slope
        start = f"Ten times larger gradients make updates {factor:.3g} times as large"
        if 0.98 < factor < 1.02:
            start = "The scale of gradients does not matter"
        below, above = self.low > 1.5 * self.scales[0], self.high < self.scales[-1] / 1.5
        if not below and not above:
            return f"{start}, over all ten decades."
        if below and above:
            low, high = f"{self.low:.1g}", f"{self.high:.1g}"
            if low == high:
                return f"{start}, near the typical gradient only."
            return f"{start}, for gradients from {low} to {high}."
        return f"{start}, {f'above {self.low:.1g}' if below else f'below {self.high:.1g}'}."


def measure_scale_response(rule: UpdateRule, typical: float) -> ScaleResponse:
    """Measure update sizes at gradients of 1e-6 to 1e4 times the typical size."""
    probe = Probe(rule)
    count = (DECADES[1] - DECADES[0]) * PER_DECADE + 1
    exponents = torch.linspace(*DECADES, count, dtype=torch.float64)
    scales = typical * 10**exponents
    each = ALONE if probe.alone else WHOLE
    noise = probe.noise(STEPS, each, 1.0, seed=5)
    shape = (1, count, 1, *[1] * len(probe.shape))
    gradients = (scales.reshape(shape) * noise.unsqueeze(1).double()).to(noise.dtype)
    start = probe.begin(each).repeat(count)
    updates, _ = probe.run(gradients.flatten(1, 2), start)
    last = updates[-LAST:].reshape(LAST, count, each, *probe.shape).transpose(0, 1)
    sizes = rms(last, tuple(range(1, last.dim())))
    logs = torch.where(sizes > 0, sizes.clamp(min=1e-300), 1e-300).log10()
    slopes = logs.diff() * PER_DECADE
    middle = -DECADES[0] * PER_DECADE
    slope = (logs[middle + PER_DECADE] - logs[middle - PER_DECADE]) / 2
    good = (slopes - slope).abs() <= TOLERANCE
    low, high = middle, middle
    while low > 0 and good[low - 1]:
        low -= 1
    while high < count - 1 and good[high]:
        high += 1
    return ScaleResponse(
        scales=tuple(scales.tolist()),
        updates=tuple(sizes.tolist()),
        slope=slope.item(),
        low=scales[low].item(),
        high=scales[high].item(),
        growth=_ratio(sizes.max().item(), sizes.min().item()),
    )


def _ratio(largest: float, smallest: float) -> float:
    return largest / smallest if smallest > 0 else math.inf
