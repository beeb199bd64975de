"""Measures a rule for all panels, and collects the panels' sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from learned_opt.explanation.measurements.dynamics import (
    Modes,
    StatePath,
    measure_modes,
    measure_path,
)
from learned_opt.explanation.measurements.gradient_scale import (
    ScaleResponse,
    measure_scale_response,
)
from learned_opt.explanation.measurements.memory import Echo, measure_echo
from learned_opt.explanation.measurements.schedule import Schedule, measure_schedule
from learned_opt.explanation.measurements.symmetry import Symmetry, measure_symmetry
from learned_opt.explanation.measurements.tensor_steps import TensorSteps, measure_tensor_steps
from learned_opt.explanation.measurements.trainings import TRAININGS, train
from learned_opt.explanation.measurements.update_curve import (
    GradientDensity,
    UpdateCurve,
    measure_update_curve,
)
from learned_opt.rules.base import UpdateRule

TRAINING = "narrow"
"""The training whose gradients are counted and whose states are followed."""

STEPS = 200

COMPARED_TRAININGS = tuple(TRAININGS)
"""The trainings in which layers are compared."""


@dataclass(frozen=True)
class Responses:
    """Responses of a rule to chosen gradients, one field a panel."""

    update_curve: UpdateCurve
    echo: Echo
    schedule: Schedule
    scale: ScaleResponse
    modes: Modes
    symmetry: Symmetry


@dataclass(frozen=True)
class Trainings:
    """Measurements of a rule in trainings of networks.

    Attributes:
        density: gradients met.
        path: of the states.
        tensor_steps: in six networks.
    """

    density: GradientDensity
    path: StatePath
    tensor_steps: TensorSteps


@dataclass(frozen=True)
class Findings:
    """Measurements of a rule beside those of others.

    Attributes:
        name: of the rule.
        subtitle: one line about it.
        own: responses to chosen gradients.
        trainings: measurements on trainings with it.
        compared: responses of the other rules by name, to the same gradients.
    """

    name: str
    subtitle: str
    own: Responses
    trainings: Trainings
    compared: Mapping[str, Responses]

    @property
    def sentences(self) -> dict[str, str]:
        """One or two sentences a panel, made of its numbers."""
        own, trainings = self.own, self.trainings
        return {
            "update": own.update_curve.sentence(),
            "memory": own.echo.sentence(),
            "schedule": f"{own.schedule.sentence()} {own.schedule.plan_sentence()}",
            "scale": own.scale.sentence(),
            "dynamics": f"{own.modes.sentence()} {trainings.path.sentence()}".strip(),
            "symmetry": own.symmetry.sentence(),
            "tensors": trainings.tensor_steps.sentence(),
        }

    @property
    def scalars(self) -> dict[str, float]:
        """The most telling numbers of each panel, by tag."""
        own, trainings = self.own, self.trainings
        found = {
            "update/like_gradient": own.update_curve.like_gradient,
            "update/like_sign": own.update_curve.like_sign,
            "update/clipped": own.update_curve.clipped,
            "memory/momentum": own.echo.momentum,
            "memory/following": own.echo.following,
            "schedule/peak": float(own.schedule.peak),
            "schedule/end": own.schedule.end,
            "scale/slope": own.scale.slope,
            "dynamics/slowest": own.modes.slowest,
        }
        symmetries, cosines = own.symmetry.deviations, trainings.tensor_steps.mix
        found |= {f"symmetry/{_tag(name)}": value for name, value in symmetries.items()}
        return found | {f"tensors/cosine/{_tag(name)}": value for name, value in cosines.items()}


def _tag(name: str) -> str:
    return name.replace(" ", "_")


def measure_trainings(rule: UpdateRule, seed: int) -> Trainings:
    """Train networks with a rule.

    Raises:
        ValueError: its first step is not finite, it moves no weight, or it meets no gradient.
    """
    steps = list(train(rule, TRAINING, STEPS, seed))
    if not steps:
        raise ValueError(f"the first update of {type(rule).__name__} is not finite")
    if not any(update.any() for step in steps for update in step.updates):
        raise ValueError(f"{type(rule).__name__} moves no weight: all its updates are zero")
    density = GradientDensity.met_in(steps)
    path = measure_path(rule, steps, density.typical)
    return Trainings(density, path, measure_tensor_steps(rule, seed, COMPARED_TRAININGS))


def measure_responses(rule: UpdateRule, density: GradientDensity) -> Responses:
    """Feed a rule gradients of the sizes that a training met."""
    typical = density.typical
    return Responses(
        update_curve=measure_update_curve(rule, density),
        echo=measure_echo(rule, typical),
        schedule=measure_schedule(rule, typical),
        scale=measure_scale_response(rule, typical),
        modes=measure_modes(rule, typical),
        symmetry=measure_symmetry(rule, typical),
    )
