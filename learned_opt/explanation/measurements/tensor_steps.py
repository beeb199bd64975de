"""Panel 7: step sizes and directions by tensor, in six trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType

import torch
from torch import Tensor

from learned_opt.explanation.measurements.probe import rms
from learned_opt.explanation.measurements.trainings import TRAININGS, TrainingStep, train
from learned_opt.explanation.words import percent
from learned_opt.rules.adam_lstm import AdamLSTM
from learned_opt.rules.base import State, UpdateRule
from learned_opt.rules.general import General
from learned_opt.rules.registry import create_rule
from learned_opt.rules.step_size_lstm import StepSizeLSTM

STEPS = 100
DIRECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "gradient": "sgd",
        "momentum": "momentum",
        "sign of gradient": "rmsprop",
        "Adam": "adam",
        "orthogonal": "orthogonal-momentum",
    }
)
"""Directions that updates are compared with, and the rules that write them."""

LAYERS = ("first", "inner", "last", "vectors")
"""Weights of the first layer, of those between, of the last; biases of all."""

SMALLEST = 1e-12


@dataclass(frozen=True)
class TensorSteps:
    """How a rule moves the tensors of six networks.

    Attributes:
        steered: whether a network steers a hand-designed base. Then sizes are relative to the
            base's update in the same state; else they are updates' RMS relative to the parameters'.
        sizes: by training, the geometric mean over the weights at each step; short where a training
            diverged.
        layers: by training and `LAYERS`, the geometric mean over the training; a layer that a
            network lacks is left out.
        schedule: the base's update sizes in the first training over the largest; empty without one.
        mix: mean cosine of updates and those of `DIRECTIONS` on the same gradients, over weights.
    """

    steered: bool
    sizes: Mapping[str, tuple[float, ...]]
    layers: Mapping[str, Mapping[str, float]]
    schedule: tuple[float, ...]
    mix: Mapping[str, float]

    def sentence(self) -> str:
        """Describes the measurement."""
        ended = [name for name, sizes in self.sizes.items() if len(sizes) < STEPS]
        ends = f" Diverged: {', '.join(ended)}." if ended else ""
        return f"{self._sizes()}. {self._direction()}.{ends}"

    def _sizes(self) -> str:
        means = {
            name: _mean([row[name] for row in self.layers.values() if name in row])
            for name in LAYERS
        }
        low, high = min(means, key=lambda k: means[k]), max(means, key=lambda k: means[k])
        least, most = means[low], means[high]
        same = most < 1.1 * least
        if self.steered:
            start = "The network multiplies the base's step"
            if same:
                return f"{start} by {most:#.2g} in all layers"
            return (
                f"{start} most in {_LAYER_NAMES[high]} (by {most:#.2g}), least in "
                f"{_LAYER_NAMES[low]} (by {least:#.2g})"
            )
        if same:
            return f"Steps are {percent(most)} of the weights in all layers"
        return (
            f"Relative to the weights, steps are largest in {_LAYER_NAMES[high]} ({percent(most)}) "
            f"and smallest in {_LAYER_NAMES[low]} ({percent(least)})"
        )

    def _direction(self) -> str:
        nearest = max(self.mix, key=lambda name: self.mix[name])
        cosine = self.mix[nearest]
        if cosine > 0.995:
            return f"Their direction is that of {_NAMES[nearest]}"
        near = f"nearest to that of {_NAMES[nearest]} (cosine {cosine:.2f})"
        if cosine < 0.3:
            return f"Their direction is like none of those below, {near}"
        return f"Their direction is {near}"


_NAMES = {
    "gradient": "the gradient",
    "momentum": "momentum",
    "sign of gradient": "the gradient's sign",
    "Adam": "Adam",
    "orthogonal": "orthogonal momentum",
}
_LAYER_NAMES = {
    "first": "first layers",
    "inner": "inner layers",
    "last": "last layers",
    "vectors": "biases",
}


def base_of(rule: UpdateRule) -> UpdateRule | None:
    """The rule that a network steers, which is the rule with its head at 0; None without one."""
    if not isinstance(rule, (StepSizeLSTM, General, AdamLSTM)):
        return None
    with torch.random.fork_rng(devices=[]):
        base = type(rule)(**rule.settings).to(rule.dtype)
    for parameter in base.parameters():
        parameter.data.zero_()
    return base


def measure_tensor_steps(
    rule: UpdateRule, seed: int = 0, names: Sequence[str] = tuple(TRAININGS)
) -> TensorSteps:
    """Train these networks of `TRAININGS`, and measure every update."""
    base = base_of(rule)
    sizes, layers, cosines = {}, {}, []
    schedule: tuple[float, ...] = ()
    for name in names:
        steps = list(train(rule, name, STEPS, seed))
        if not steps:
            continue
        found, base_sizes = _relative_sizes(base, steps)
        groups = _layer_groups(steps[0])
        weights = [k for layer in LAYERS[:3] for k in groups[layer]]
        sizes[name] = tuple(_geometric_mean(row[weights]) for row in found)
        layers[name] = MappingProxyType(
            {layer: _geometric_mean(found[:, rows]) for layer, rows in groups.items() if rows}
        )
        cosines.append(_mix(steps, weights))
        if base is not None and not schedule:
            course = base_sizes[:, weights].mean(1)
            schedule = tuple((course / course.max().clamp(min=SMALLEST)).tolist())
    mix = {name: _mean([one[name] for one in cosines]) for name in DIRECTIONS}
    return TensorSteps(
        steered=base is not None,
        sizes=MappingProxyType(sizes),
        layers=MappingProxyType(layers),
        schedule=schedule,
        mix=MappingProxyType(mix),
    )


@torch.no_grad()
def _relative_sizes(
    base: UpdateRule | None, steps: Sequence[TrainingStep]
) -> tuple[Tensor, Tensor]:
    """Sizes of updates over those of the base or the parameters; the divisors: `[t, tensors]`."""
    found, divisors = [], []
    for step in steps:
        own = torch.stack([rms(update) for update in step.updates])
        if base is None:
            # Biases that begin at zero count as of size 0.01.
            other = torch.stack([rms(value).clamp(min=0.01) for value in step.parameters])
        else:
            deltas, _ = base(step.gradients, step.parameters, step.states, step.context)
            other = torch.stack([rms(base.default_lr * delta) for delta in deltas])
        found.append(own / other.clamp(min=SMALLEST))
        divisors.append(other)
    return torch.stack(found), torch.stack(divisors)


def _layer_groups(step: TrainingStep) -> dict[str, list[int]]:
    """The places of tensors by `LAYERS`."""
    weights = [k for k, parameter in enumerate(step.parameters) if parameter.dim() > 1]
    vectors = [k for k, parameter in enumerate(step.parameters) if parameter.dim() < 2]
    first, last = weights[:1], weights[1:][-1:]
    return {"first": first, "inner": weights[1:-1], "last": last, "vectors": vectors}


@torch.no_grad()
def _mix(steps: Sequence[TrainingStep], weights: Sequence[int]) -> dict[str, float]:
    """Mean cosines of updates of these tensors with those of the directions' rules."""
    means = {}
    for name, rule_name in DIRECTIONS.items():
        rule = create_rule(rule_name)
        states: list[State] = [rule.init_state(steps[0].parameters[k]) for k in weights]
        cosines = []
        for step in steps:
            gradients = [step.gradients[k] for k in weights]
            parameters = [step.parameters[k] for k in weights]
            deltas, states = rule(gradients, parameters, states)
            for k, delta in zip(weights, deltas, strict=True):
                norms = step.updates[k].norm() * delta.norm()
                if norms > 0:
                    cosines.append(((step.updates[k] * delta).sum() / norms).item())
        means[name] = _mean(cosines)
    return means


def _geometric_mean(values: Tensor) -> float:
    return values.clamp(min=SMALLEST).log().mean().exp().item()


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0
