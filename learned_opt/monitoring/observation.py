"""Evaluates a rule once more on samples of its tensors, and reads sizes, gates and steering."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.checks.arguments import shown
from learned_opt.monitoring.samples import CoordinateSamples
from learned_opt.rules.base import Context, State, UpdateRule
from learned_opt.rules.coordinate_rule import CoordinateRule
from learned_opt.rules.steered_rule import SteeredRule

Floats: TypeAlias = NDArray[np.float32]

Sample: TypeAlias = tuple[Tensor, Tensor, State]
"""Gradient, parameter and state of a tensor, of the sampled coordinates."""

MOST_TENSORS = 32
"""Most tensors that are observed, and that a heat map shows unless they are named.

Of more than 40 runs TensorBoard selects none, and each tensor is a run.
"""


@dataclass(frozen=True)
class TensorSteering:
    """How a network bent the step of a tensor; see `SteeredStep`."""

    schedule: float
    multiplier: float
    mix: Mapping[str, float]


@dataclass(frozen=True)
class TensorObservation:
    """One tensor in one step.

    Attributes:
        name: name of the tensor.
        size: number of its elements.
        update_rms: root mean square of `lr * delta` over the sample, without weight decay.
        weight_rms: of the parameter.
        gradient_rms: of the gradient.
        gates: values by gate, `[coordinates, units]`. If all coordinates share a gate, its units
            take their place: `[units, 1]`.
        shared: names of the gates that all coordinates share: those of an LSTM per tensor.
        steering: None if the rule is not steered.
    """

    name: str
    size: int
    update_rms: float
    weight_rms: float
    gradient_rms: float
    gates: Mapping[str, Floats] = field(default_factory=dict)
    steering: TensorSteering | None = None
    shared: frozenset[str] = frozenset()


@torch.no_grad()
def observe(
    rule: UpdateRule,
    names: Sequence[str],
    gradients: Sequence[Tensor],
    parameters: Sequence[Tensor],
    states: Sequence[State],
    context: Context,
    samples: CoordinateSamples,
    *,
    lr: Sequence[float | Tensor],
    maximize: bool = False,
) -> list[TensorObservation]:
    """Evaluate the next step, and change no argument.

    Only the `MOST_TENSORS` largest tensors are observed, and no empty ones.

    Args:
        rule: the update rule.
        names: of the parameter tensors.
        gradients: `[*param]` each.
        parameters: `[*param]` each.
        states: the rule's state of each, before the step.
        context: see `Context`.
        samples: the coordinates to evaluate.
        lr: multiplies the deltas, one per tensor.
        maximize: the optimizer maximises.
    """
    sign = -1 if maximize else 1
    if context.loss is not None:
        context = replace(context, loss=sign * context.loss.detach().to(rule.device))
    if context.total_steps is not None:
        context = replace(context, total_steps=context.total_steps.to(rule.device))
    shown = _largest(parameters)
    # A network that steers may read a mean over all tensors.
    kept = range(len(names)) if isinstance(rule, SteeredRule) else shown
    if not shown:
        return []
    taken = [samples.take(rule, names[k], gradients[k], parameters[k], states[k]) for k in kept]
    sampled = [(sign * gradient, parameter, state) for gradient, parameter, state in taken]
    if isinstance(rule, SteeredRule):
        places = [samples.places(names[k], parameters[k].numel()) for k in kept]
        deltas, gates, shared, steering = _evaluate_steered(rule, sampled, places, context)
    else:
        deltas, _ = rule(*_as_lists(sampled), context)
        gates, shared = _read_gates(rule, sampled, context)
        steering = [None] * len(kept)
    own_gradients, own_parameters, _ = _as_lists(sampled)
    sizes = [_rms(values) for values in (deltas, own_parameters, own_gradients)]
    return [
        TensorObservation(
            name=names[k],
            size=parameters[k].numel(),
            update_rms=float(lr[k]) * sizes[0][place],
            weight_rms=sizes[1][place],
            gradient_rms=sizes[2][place],
            gates=gates[place],
            steering=steering[place],
            shared=shared,
        )
        for place, k in enumerate(kept)
        if k in shown
    ]


def _evaluate_steered(
    rule: SteeredRule, sampled: Sequence[Sample], places: Sequence[Tensor], context: Context
) -> tuple[list[Tensor], list[dict[str, Floats]], frozenset[str], list[TensorSteering | None]]:
    """Evaluate a steered rule.

    Args:
        rule: the update rule.
        sampled: samples of all tensors, over which its network may read a mean.
        places: of the sampled coordinates of each tensor.
        context: on the rule's device.

    Returns:
        Deltas and gates of each tensor, the names of the gates that its coordinates share, and the
        steering of each tensor.
    """
    step = rule.steered_step(*_as_lists(sampled), context)
    gates = [
        {name: _on_host(rows[k]).reshape(-1, 1) for name, rows in step.gates.items()}
        for k in range(len(sampled))
    ]
    coordinate_gates = step.coordinate_gates or [{}] * len(gates)
    for own, found, kept in zip(gates, coordinate_gates, places, strict=True):
        for name, values in found.items():
            rows = values.reshape(-1, values.shape[-1])
            own[name] = _on_host(rows[kept.to(rule.device)])
    mixes = {name: values.tolist() for name, values in step.mix.items()}
    factors = zip(step.schedule.tolist(), step.multiplier.tolist(), strict=True)
    steering: list[TensorSteering | None] = [
        TensorSteering(*pair, {name: values[k] for name, values in mixes.items()})
        for k, pair in enumerate(factors)
    ]
    return list(step.deltas), gates, frozenset(step.gates), steering


def _as_lists(sampled: Sequence[Sample]) -> tuple[list[Tensor], list[Tensor], list[State]]:
    """Samples as lists of gradients, parameters and states."""
    gradients, parameters, states = zip(*sampled, strict=True)
    return list(gradients), list(parameters), list(states)


def _read_gates(
    rule: UpdateRule, sampled: Sequence[Sample], context: Context
) -> tuple[list[dict[str, Floats]], frozenset[str]]:
    """The gates of each tensor; those of small samples in one call, which is several times faster.

    Tensors that have taken different numbers of steps are read one by one.

    Returns:
        The gates, and the names of those that all coordinates of a tensor share.
    """
    steps = {float(state["step"]) for _, _, state in sampled}
    if not isinstance(rule, CoordinateRule) or len(steps) > 1:
        one_by_one: list[dict[str, Floats]] = []
        shared: set[str] = set()
        for sample in sampled:
            named = rule.gates(*sample, context)
            dims = sample[0].dim()
            one_by_one.append(
                {gate: _by_coordinate(values, dims) for gate, values in named.items()}
            )
            if sample[0].numel() > 1:  # with one coordinate there is nothing to share
                shared |= {gate for gate, values in named.items() if _is_shared(values, dims)}
        return one_by_one, frozenset(shared)
    gradients, parameters, states = zip(*sampled, strict=True)
    joined = {
        key: value if key == "step" else torch.cat([state[key] for state in states])
        for key, value in states[0].items()
    }
    counts = [len(gradient) for gradient in gradients]
    found: list[dict[str, Floats]] = [{} for _ in sampled]
    recorded = rule.gates(torch.cat(gradients), torch.cat(parameters), joined, context)
    for gate, values in recorded.items():
        table = _on_host(values.reshape(sum(counts), -1))
        for own, part in zip(found, np.split(table, np.cumsum(counts)[:-1]), strict=True):
            own[gate] = part
    return found, frozenset()


def _largest(tensors: Sequence[Tensor]) -> list[int]:
    """The places of the `MOST_TENSORS` largest tensors that are not empty, in order."""
    places = [k for k, tensor in enumerate(tensors) if tensor.numel()]
    largest = sorted(places, key=lambda k: tensors[k].numel(), reverse=True)[:MOST_TENSORS]
    return sorted(largest)


def _rms(tensors: Sequence[Tensor]) -> list[float]:
    """Root mean square of each tensor; one copy to the host."""
    means = [tensor.float().square().mean() for tensor in tensors]
    rms: list[float] = torch.stack(means).sqrt().tolist()
    return rms


def _on_host(values: Tensor) -> Floats:
    array: Floats = values.float().cpu().numpy()
    return array


def _is_shared(values: Tensor, dims: int) -> bool:
    """Whether a gate `[*tensor, *units]` has one value, or one a unit, for the whole tensor."""
    return all(size == 1 for size in values.shape[:dims])


def _by_coordinate(values: Tensor, dims: int) -> Floats:
    """Gate values `[*tensor, *units]` as `[coordinates, units]`, on the host."""
    table = values.flatten(dims) if values.dim() > dims else values.unsqueeze(-1)
    array = _on_host(table.reshape(-1, table.shape[-1]))
    # One gate for the whole tensor: its units take the place of coordinates.
    return array.T if len(array) == 1 else array


def one_loss(loss: Tensor | float) -> Tensor:
    """A loss as a 0-dim tensor; a tensor on a device is not read.

    Raises:
        TypeError: not one real number.
    """
    if isinstance(loss, numbers.Real):
        return torch.tensor(float(loss), dtype=torch.float32, device="cpu")
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
        raise TypeError(f"loss must be a number, got {shown(loss)}")
    return loss.detach().reshape(())
