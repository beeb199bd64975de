"""Panel 2: how one gradient echoes in later updates, and how a steady gradient adds up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learned_opt.explanation.measurements.probe import Probe, rms, smoothed
from learned_opt.rules.base import UpdateRule

BURN_IN = 100
"""Steps under noise before the impulse."""

STEPS = 60
ALONE, WHOLE = 4096, 96
"""Experiments with a rule of single coordinates, and with one of whole tensors."""


@dataclass(frozen=True)
class Echo:
    """Responses of a coordinate to its earlier gradients.

    Attributes:
        impulse: change of the updates after one gradient more, `STEPS` long, over the RMS of an
            update and in units of the gradient's standard deviation; the first is the update that
            reads it. Positive where the coordinate descends.
        momentum: beta of the b beta^k that is nearest to `impulse`.
        fit: share of the squares of `impulse` that this explains.
        gain: descent under a constant gradient over the RMS of updates under noise of that size,
            step by step from a fresh state.
        following: mean of the last twenty of `gain`.
    """

    impulse: tuple[float, ...]
    momentum: float
    fit: float
    gain: tuple[float, ...]
    following: float

    def sentence(self) -> str:
        """Describes the measurement."""
        echo = self._echo()
        if self.following <= 0:
            return f"{echo}. A steady gradient moves a weight uphill."
        return (
            f"{echo}. A steady gradient moves a weight {self.following:.1f} times as far per step "
            "as noise of the same size."
        )

    def _echo(self) -> str:
        """The effect of one gradient on later updates."""
        first, second, later = self.impulse[0], self.impulse[1], sum(self.impulse[2:])
        if second < -0.05 * first:
            back = f"{-100 * second / first:.0f}%"
            text = f"A gradient moves a weight at once; the next update takes back {back} of that"
            if later > -second:
                text += f", later ones add {later / first:.1f} times as much"
            return text
        if self.momentum < 0.01 and self.fit > 0.95:
            return "A gradient moves one update only: no momentum"
        like, explained = f"{self.momentum:.2f}", f"{100 * max(self.fit, 0):.0f}%"
        if self.fit < 0.8:
            return f"Past gradients do not fade as with momentum ({like} explains {explained})"
        if self.fit < 0.99:
            return f"Past gradients fade roughly as with momentum {like} ({explained} explained)"
        return f"Past gradients fade as with momentum {like}"


def measure_echo(rule: UpdateRule, typical: float) -> Echo:
    """Measure both responses, at gradients of this standard deviation.

    The impulse: after `BURN_IN` steps under noise one gradient is larger, or smaller, by a quarter
    of the standard deviation, while all else stays; half the difference counts. In a tensor, only
    the probed coordinate differs.
    """
    impulse = _impulse(rule, typical)
    momentum, fit = fit_momentum(impulse)
    gain = _gain(rule, typical)
    return Echo(
        impulse=tuple(impulse.tolist()),
        momentum=momentum,
        fit=fit,
        gain=tuple(gain.tolist()),
        following=gain[-20:].mean().item(),
    )


def _impulse(rule: UpdateRule, typical: float) -> Tensor:
    probe = Probe(rule)
    count = ALONE if probe.alone else WHOLE
    noise = probe.noise(BURN_IN + STEPS, count, typical, seed=2)
    _, population = probe.run(noise[:BURN_IN])
    rest = noise[BURN_IN:]
    bump = torch.zeros(STEPS, count, dtype=noise.dtype)
    bump[0] = 0.25 * typical
    picked = probe.pick(rest)
    both = torch.cat([probe.place(rest, picked + bump), probe.place(rest, picked - bump)], dim=1)
    updates, _ = probe.run(both, population.repeat(2))
    more, less = probe.pick(updates).split(count, dim=1)
    sizes = smoothed(rms(updates, tuple(range(1, updates.dim()))))
    response = -(more - less).mean(1) / 0.5
    return torch.where(sizes > 0, response / sizes.clamp(min=1e-300), 0.0)


def _gain(rule: UpdateRule, typical: float) -> Tensor:
    probe = Probe(rule)
    count = ALONE if probe.alone else WHOLE
    noise = probe.noise(STEPS, count, typical, seed=3)
    noisy, _ = probe.run(noise)
    sizes = rms(noisy, tuple(range(1, noisy.dim())))
    steady, _ = probe.run(probe.place(noise, torch.full((STEPS, count), typical)))
    reached = -probe.pick(steady).mean(1)
    return torch.where(sizes > 0, reached / sizes.clamp(min=1e-300), 0.0)


def fit_momentum(response: Tensor) -> tuple[float, float]:
    """Fit b beta^k to a response, by least squares over beta in [0, 1) and any b.

    Returns:
        beta, and the share of the response's squares that the fit explains.
    """
    square = response.square().sum()
    if square == 0:
        return 0.0, 0.0
    powers = torch.arange(len(response), dtype=torch.float64)
    low, high = 0.0, 0.9999
    for _ in range(4):  # a grid, made ten times finer around the best
        betas = torch.linspace(low, high, 401, dtype=torch.float64)
        shapes = betas.unsqueeze(-1) ** powers
        explained = (shapes @ response).square() / shapes.square().sum(-1)
        best = int(explained.argmax())
        width = (high - low) / 20
        low, high = max(betas[best].item() - width, 0.0), min(betas[best].item() + width, 0.9999)
    return betas[best].item(), (explained[best] / square).item()
