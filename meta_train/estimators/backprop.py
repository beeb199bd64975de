"""Differentiate an objective through inner training, plainly or with segments recomputed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meta_train.estimators.base import Estimate, MetaObjective
from meta_train.estimators.objectives import meta_loss
from meta_train.inner.batches import Mark
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import InnerState
from meta_train.inner.unroll import Data, Rollout, roll_out


@dataclass(frozen=True)
class Derivative:
    """An objective, its derivative, and where inner training ended.

    Attributes:
        gradients: one per leaf.
        value: the objective, 0-dim.
        losses: see `Rollout`; without history.
        inner: the last state, without history.
        steps: inner steps taken, all runs together.
    """

    gradients: list[Tensor]
    value: Tensor
    losses: Tensor
    inner: InnerState
    steps: int

    def as_estimate(self, diverged: int) -> Estimate:
        """Report it."""
        alive = self.inner.alive
        return Estimate(
            gradients=self.gradients,
            meta_loss=self.value,
            mean_loss=meta_loss(self.losses, alive, lambda losses: losses),
            counted=int(alive.sum()),
            diverged=diverged,
            inner_steps=self.steps,
        )


def differentiate(
    loop: InnerLoop,
    inner: InnerState,
    data: Data,
    steps: int,
    meta_objective: MetaObjective,
    leaves: Sequence[Tensor],
    segment: int | None = None,
) -> Derivative:
    """The derivative of the mean objective by `leaves`.

    Args:
        loop: see `InnerLoop`.
        inner: where the steps begin; its parameters may depend on `leaves`.
        data: what is read.
        steps: to differentiate through.
        meta_objective: the objective.
        leaves: tensors that the steps depend on.
        segment: None keeps the graph of all steps. A number keeps the states at every so many
            steps and computes the steps between them once more (Griewank 1992; Chen et al. 2016,
            arXiv 1604.06174): memory of `segment` steps and `steps / segment` states, about a
            third more time. The derivative is the same.

    Raises:
        ValueError: a segment of less than one step.
    """
    if segment is not None and segment < 1:
        raise ValueError(f"segment must be at least 1, got {segment}")
    if segment is None or segment >= steps:
        rollout = roll_out(loop, inner, data, steps)
        value = _value(rollout.losses, rollout.imitation, rollout.inner.alive, meta_objective)
        gradients = _grad([value], leaves, None)
        return Derivative(
            gradients,
            value.detach(),
            rollout.losses.detach(),
            rollout.inner.detach(),
            steps * inner.alive.numel(),
        )
    return _by_segments(loop, inner, data, steps, meta_objective, leaves, segment)


def best_segment(steps: int, state_bytes: int = 1, step_bytes: int = 1) -> int:
    """The segment that makes the states at boundaries plus the graph of one segment smallest.

    Near sqrt(steps * state / step), where both weigh the same (Chen et al. 2016, arXiv 1604.06174,
    section 4.1).

    Args:
        steps: of the whole.
        state_bytes: kept at each boundary.
        step_bytes: of the graph of a step.
    """
    if steps < 1:
        return 1
    middle = max(1, math.isqrt(steps * state_bytes // max(step_bytes, 1)))
    nearby = range(min(max(1, middle // 2), steps), min(2 * middle, steps) + 1)
    # Of equally good ones the longest: the last segment is computed only once.
    return min(nearby, key=lambda k: (-(-steps // k) * state_bytes + k * step_bytes, -k))


def _value(
    losses: Tensor, imitation: Tensor, alive: Tensor, meta_objective: MetaObjective
) -> Tensor:
    value = meta_loss(losses, alive, meta_objective.objective)
    if meta_objective.imitation:
        value = value + meta_objective.imitation * meta_loss(imitation, alive, lambda term: term)
    return value


def _grad(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor] | None
) -> list[Tensor]:
    """`autograd.grad`, with zeros for what nothing depends on."""
    chosen = [k for k, output in enumerate(outputs) if output.requires_grad]
    wanted = [k for k, tensor in enumerate(inputs) if tensor.requires_grad]
    result = [torch.zeros_like(tensor) for tensor in inputs]
    if chosen and wanted:
        found = torch.autograd.grad(
            [outputs[k] for k in chosen],
            [inputs[k] for k in wanted],
            None if grads is None else [grads[k] for k in chosen],
            allow_unused=True,
            materialize_grads=True,
        )
        for k, gradient in zip(wanted, found, strict=True):
            result[k] = gradient
    return result


@dataclass(frozen=True)
class _Boundary:
    """All that is kept of a segment until it is computed again."""

    inner: InnerState
    marks: list[Mark]
    first: int


def _by_segments(
    loop: InnerLoop,
    inner: InnerState,
    data: Data,
    steps: int,
    meta_objective: MetaObjective,
    leaves: Sequence[Tensor],
    segment: int,
) -> Derivative:
    forward = replace(loop, differentiable=False)
    *starts, last = range(0, steps, segment)
    boundaries: list[_Boundary] = []
    losses: list[Tensor] = []
    imitation: list[Tensor] = []
    state = inner.detach()
    for first in starts:
        boundaries.append(_Boundary(state, data.mark(), first))
        part = roll_out(forward, state, data, segment, first, more=True)
        losses.append(part.losses)
        imitation.append(part.imitation)
        state = part.inner
    # The last segment is the first to be differentiated, so it is computed only once.
    begin = _requiring_grad(state)
    rollout = roll_out(loop, begin, data, steps - last, last)
    end = rollout.inner.detach()
    losses.append(rollout.losses.detach())
    imitation.append(rollout.imitation.detach())
    value, by_loss, by_distance = _weigh(losses, imitation, end.alive, meta_objective)

    adjoint = [torch.zeros_like(tensor) for tensor in _carried(end)]
    weights = by_loss.pop(), by_distance.pop()
    total, adjoint = _go_back(rollout, begin, leaves, weights, adjoint)
    while boundaries:
        del rollout, begin, state  # one segment at a time
        boundary = boundaries.pop()
        state, first = boundary.inner, boundary.first
        data.rewind(boundary.marks)
        begin = _requiring_grad(state) if first else inner
        rollout = roll_out(loop, begin, data, segment, first, more=True)
        weights = by_loss.pop(), by_distance.pop()
        found, adjoint = _go_back(rollout, begin, leaves, weights, adjoint)
        total = [a + b for a, b in zip(total, found, strict=True)]
    return Derivative(total, value, torch.cat(losses), end, steps * inner.alive.numel())


def _weigh(
    losses: Sequence[Tensor],
    imitation: Sequence[Tensor],
    alive: Tensor,
    meta_objective: MetaObjective,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The objective of the segments together, and its derivatives by what each one gave."""
    lengths = [len(part) for part in losses], [len(part) for part in imitation]
    whole = [torch.cat(list(parts)).requires_grad_() for parts in (losses, imitation)]
    with torch.enable_grad():
        value = _value(whole[0], whole[1], alive, meta_objective)
    by_loss, by_distance = _grad([value], whole, None)
    return value.detach(), list(by_loss.split(lengths[0])), list(by_distance.split(lengths[1]))


def _go_back(
    rollout: Rollout,
    begin: InnerState,
    leaves: Sequence[Tensor],
    weights: tuple[Tensor, Tensor],
    adjoint: Sequence[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    """Through one segment: derivatives by `leaves`, and by the state that it began at.

    Args:
        rollout: the segment, with history.
        begin: its start.
        leaves: see `differentiate`.
        weights: derivatives of the objective by its losses and imitation.
        adjoint: derivatives of the objective by the state at its end, through later segments.
    """
    found = _grad(
        [rollout.losses, rollout.imitation, *_carried(rollout.inner)],
        [*leaves, *_carried(begin)],
        [*weights, *adjoint],
    )
    return found[: len(leaves)], found[len(leaves) :]


def _carried(inner: InnerState) -> list[Tensor]:
    """The tensors that a derivative flows through from one step to the next, in a fixed order."""
    # Counts of steps depend on nothing.
    states = [
        value for state in inner.states.values() for key, value in state.items() if key != "step"
    ]
    tensors = [*inner.parameters.values(), *inner.fixed.values(), *states]
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def _requiring_grad(inner: InnerState) -> InnerState:
    """The same numbers, of which the carried ones are the start of a graph."""
    inner = inner.detach()
    for tensor in _carried(inner):
        tensor.requires_grad_()
    return inner
