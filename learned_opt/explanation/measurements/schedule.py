"""Panel 3: the schedule in the update sizes, under steady noise and after gradients stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from learned_opt.explanation.measurements.probe import Probe, rms
from learned_opt.explanation.words import percent
from learned_opt.rules.base import UpdateRule

PLANS = (30, 100, 300)
"""Planned numbers of steps that the rule is told in turn, if it reads them."""

STOP = 100
"""The step after which gradients are zero."""

STEADY = 0.85
"""A last update above this share of the largest does not count as smaller: single steps scatter."""

ALONE, WHOLE = 1024, 8
"""Experiments with a rule of single coordinates, and with one of whole tensors."""


@dataclass(frozen=True)
class Schedule:
    """RMS of the updates of each step.

    Attributes:
        noise: under steady noise, not told the number of steps unless the rule needs it.
        stopped: the same with zero gradients after `STOP` steps.
        idle: largest update of parameters that never had a gradient.
        told: under steady noise over each of `PLANS`, if the rule reads its number of steps.
        peak: step with the largest update under noise, from 1.
        end: last update over the largest, under noise.
        halving: steps after the stop until updates are half as large; None if they never are.
    """

    noise: tuple[float, ...]
    stopped: tuple[float, ...]
    idle: float
    told: Mapping[int, tuple[float, ...]]
    peak: int
    end: float
    halving: int | None

    def sentence(self) -> str:
        """Describes the measurement."""
        if self.end > STEADY:
            course = "Under steady noise, updates do not shrink"
        else:
            course = (
                f"Under steady noise, updates are largest at step {self.peak} and shrink to "
                f"{percent(self.end)} of that by step {len(self.noise)}"
            )
        if self.halving is None:
            stop = "They go on after gradients stop"
        elif self.halving == 1:
            stop = "When gradients stop, they halve at once"
            if self.stopped[STOP] < 1e-3 * self.stopped[STOP - 1]:
                stop = "They stop with the gradients"
        else:
            stop = f"When gradients stop, they halve in {self.halving} steps"
        return f"{course}. {stop}."

    def plan_sentence(self) -> str:
        """Describes the effect of the planned number of steps."""
        if not self.told:
            return "It is not told the number of steps."
        ends = [curve[-1] / max(curve) for curve in self.told.values()]
        low, high = percent(min(ends)), percent(max(ends))
        share = low if low == high else f"{low} to {high}"
        lengths = ", ".join(str(steps) for steps in list(self.told)[:-1])
        return (
            f"Told that it has {lengths} or {[*self.told][-1]} steps, it ends with an update of "
            f"{share} of its largest."
        )


def measure_schedule(rule: UpdateRule, typical: float) -> Schedule:
    """Measure update sizes under noise of this standard deviation."""
    probe = Probe(rule)
    longest = PLANS[-1]
    noise = probe.noise(longest, ALONE if probe.alone else WHOLE, typical, seed=4)
    updates, _ = probe.run(noise)
    silent = noise.clone()
    silent[STOP:] = 0
    halted, _ = probe.run(silent[: 2 * STOP])
    idle, _ = probe.run(torch.zeros_like(noise[:3]))
    told = {}
    if "total_steps" in rule.read_context():
        for steps in PLANS:
            planned = Probe(rule, total_steps=steps)
            told[steps] = tuple(_sizes(planned.run(noise[:steps])[0]).tolist())
    sizes, after = _sizes(updates), _sizes(halted)
    below = (after[STOP:] <= after[STOP - 10 : STOP].mean() / 2).nonzero()
    return Schedule(
        noise=tuple(sizes.tolist()),
        stopped=tuple(after.tolist()),
        idle=idle.abs().max().item(),
        told=told,
        peak=int(sizes.argmax()) + 1,
        end=(sizes[-1] / sizes.max()).item(),
        halving=int(below[0]) + 1 if len(below) else None,
    )


def _sizes(updates: Tensor) -> Tensor:
    return rms(updates, tuple(range(1, updates.dim())))
