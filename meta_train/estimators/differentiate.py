"""Differentiates an objective through inner training, with or without gradient checkpointing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learned_opt.adaptation.second_derivatives import naming_the_operation, twice_differentiable
from meta_train.estimators.base import MetaObjective
from meta_train.estimators.objectives import mean_over_alive, meta_loss
from meta_train.inner.batches import InnerData, Mark
from meta_train.inner.loop import InnerLoop
from meta_train.inner.parameter_vector import can_join, join, split
from meta_train.inner.state import InnerState
from meta_train.inner.unroll import Rollout, roll_out


@dataclass(frozen=True)
class Derivative:
    """An objective and its derivative.

    Attributes:
        gradients: one for each leaf.
        value: the objective, 0-dim.
        losses: see `Rollout`; without history.
        inner: the last state, without history.
    """

    gradients: list[Tensor]
    value: Tensor
    losses: Tensor
    inner: InnerState


def differentiate(
    loop: InnerLoop,
    inner: InnerState,
    data: InnerData,
    steps: int,
    meta_objective: MetaObjective,
    leaves: Sequence[Tensor],
    checkpoint_steps: int | None = None,
) -> Derivative:
    """Return the derivative of the mean objective by `leaves`.

    Args:
        loop: takes the steps.
        inner: the state before the first step; its parameters may depend on `leaves`.
        data: streams of batches.
        steps: number of steps to differentiate through.
        meta_objective: the objective.
        leaves: tensors that the steps depend on.
        checkpoint_steps: None keeps the graph of all steps. A number k turns on gradient
            checkpointing (Griewank 1992; Chen et al. 2016, arXiv 1604.06174): the state is kept
            every k steps and the k steps after it are computed twice. Memory is that of k steps and
            `steps / k` states; time grows by about a third. The derivative is the same.

    Raises:
        ValueError: `checkpoint_steps` is less than 1.
    """
    if checkpoint_steps is not None and checkpoint_steps < 1:
        raise ValueError(f"checkpoint_steps must be at least 1, got {checkpoint_steps}")
    if can_join(loop, inner):
        together = join(loop, inner)
        found = differentiate(*together, data, steps, meta_objective, leaves, checkpoint_steps)
        return replace(found, inner=split(found.inner, inner))
    if checkpoint_steps is not None and checkpoint_steps < steps:
        return _checkpointed(loop, inner, data, steps, meta_objective, leaves, checkpoint_steps)
    rollout = roll_out(loop, inner, data, steps)
    value = _meta_loss_with_imitation(
        rollout.losses, rollout.imitation, rollout.inner.alive, meta_objective
    )
    gradients = _grad([value], leaves, None)
    return Derivative(gradients, value.detach(), rollout.losses.detach(), rollout.inner.detach())


def best_checkpoint_steps(steps: int, state_bytes: int = 1, step_bytes: int = 1) -> int:
    """Return the `checkpoint_steps` with the least memory: kept states plus one segment's graph.

    Near sqrt(steps * state / step), where both weigh the same (Chen et al. 2016, arXiv 1604.06174,
    section 4.1).

    Args:
        steps: number of steps to differentiate through.
        state_bytes: size of a kept state.
        step_bytes: size of the graph of a step.
    """
    if steps < 1:
        return 1
    middle = max(1, math.isqrt(steps * state_bytes // max(step_bytes, 1)))
    nearby = range(min(max(1, middle // 2), steps), min(2 * middle, steps) + 1)
    # Of equally good ones take the longest: the last segment is computed only once.
    return min(nearby, key=lambda k: (-(-steps // k) * state_bytes + k * step_bytes, -k))


def _meta_loss_with_imitation(
    losses: Tensor, imitation: Tensor, alive: Tensor, meta_objective: MetaObjective
) -> Tensor:
    """The meta-objective of a window, 0-dim, with its distance from the imitated rule."""
    value = meta_loss(losses, alive, meta_objective.objective)
    if meta_objective.imitation:
        value = value + meta_objective.imitation * mean_over_alive(imitation, alive)
    return value


def _grad(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor] | None
) -> list[Tensor]:
    """`autograd.grad` with zeros for inputs that nothing depends on."""
    chosen = [k for k, output in enumerate(outputs) if output.requires_grad]
    wanted = [k for k, tensor in enumerate(inputs) if tensor.requires_grad]
    result = [torch.zeros_like(tensor) for tensor in inputs]
    if chosen and wanted:
        # A module with activation checkpointing computes here again, so it needs the same kernels.
        with twice_differentiable(), naming_the_operation("set second_order=False"):
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
class _Checkpoint:
    """Everything that is kept of a segment until it is computed again."""

    inner: InnerState
    marks: list[Mark]
    first: int


def _checkpointed(
    loop: InnerLoop,
    inner: InnerState,
    data: InnerData,
    steps: int,
    meta_objective: MetaObjective,
    leaves: Sequence[Tensor],
    checkpoint_steps: int,
) -> Derivative:
    forward = replace(loop, differentiable=False)
    *starts, last = range(0, steps, checkpoint_steps)
    checkpoints: list[_Checkpoint] = []
    losses: list[Tensor] = []
    imitation: list[Tensor] = []
    state = inner.detach()
    for first in starts:
        checkpoints.append(_Checkpoint(state, data.mark(), first))
        part = roll_out(forward, state, data, checkpoint_steps, first, more=True)
        losses.append(part.losses)
        imitation.append(part.imitation)
        state = part.inner
    # The last segment is differentiated first, so it is computed only once.
    begin = _requiring_grad(state)
    rollout = roll_out(loop, begin, data, steps - last, last)
    end = rollout.inner.detach()
    losses.append(rollout.losses.detach())
    imitation.append(rollout.imitation.detach())
    value, by_loss, by_distance = _weigh(losses, imitation, end.alive, meta_objective)

    adjoint = [torch.zeros_like(tensor) for tensor in _differentiable_tensors(end)]
    weights = by_loss.pop(), by_distance.pop()
    total, adjoint = _backward(rollout, begin, leaves, weights, adjoint)
    while checkpoints:
        del rollout, begin, state  # hold one segment at a time
        checkpoint = checkpoints.pop()
        state, first = checkpoint.inner, checkpoint.first
        data.rewind(checkpoint.marks)
        begin = _requiring_grad(state) if first else inner
        rollout = roll_out(loop, begin, data, checkpoint_steps, first, more=True)
        weights = by_loss.pop(), by_distance.pop()
        found, adjoint = _backward(rollout, begin, leaves, weights, adjoint)
        total = [a + b for a, b in zip(total, found, strict=True)]
    return Derivative(total, value, torch.cat(losses), end)


def _weigh(
    losses: Sequence[Tensor],
    imitation: Sequence[Tensor],
    alive: Tensor,
    meta_objective: MetaObjective,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the objective of all segments, and its derivatives by each one's losses and distances.

    Args:
        losses: by segment.
        imitation: by segment.
        alive: runs that are alive at the end.
        meta_objective: the objective.
    """
    lengths = [len(part) for part in losses], [len(part) for part in imitation]
    whole = [torch.cat(list(parts)).requires_grad_() for parts in (losses, imitation)]
    with torch.enable_grad():
        value = _meta_loss_with_imitation(whole[0], whole[1], alive, meta_objective)
    by_loss, by_distance = _grad([value], whole, None)
    return value.detach(), list(by_loss.split(lengths[0])), list(by_distance.split(lengths[1]))


def _backward(
    rollout: Rollout,
    begin: InnerState,
    leaves: Sequence[Tensor],
    weights: tuple[Tensor, Tensor],
    adjoint: Sequence[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    """Go back through one segment: return derivatives by `leaves` and by the segment's first state.

    Args:
        rollout: the segment, with history.
        begin: its first state.
        leaves: see `differentiate`.
        weights: derivatives of the objective by the segment's losses and imitation.
        adjoint: derivatives of the objective by the segment's last state, through later segments.
    """
    found = _grad(
        [rollout.losses, rollout.imitation, *_differentiable_tensors(rollout.inner)],
        [*leaves, *_differentiable_tensors(begin)],
        [*weights, *adjoint],
    )
    return found[: len(leaves)], found[len(leaves) :]


def _differentiable_tensors(inner: InnerState) -> list[Tensor]:
    """Return the tensors that derivatives flow through between steps, in a fixed order."""
    # Step counters depend on nothing.
    states = [
        value for state in inner.states.values() for key, value in state.items() if key != "step"
    ]
    tensors = [*inner.parameters.values(), *inner.fixed.values(), *states]
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def _requiring_grad(inner: InnerState) -> InnerState:
    """Return the same values as the start of a new graph."""
    inner = inner.detach()
    for tensor in _differentiable_tensors(inner):
        tensor.requires_grad_()
    return inner
