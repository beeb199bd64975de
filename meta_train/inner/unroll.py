"""Unrolls several inner steps and evaluates each: the losses that a meta-objective reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meta_train.inner.batches import InnerData
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import InnerState
from meta_train.runtime.seeding import derive_seed, own_randomness, seed_globally
from meta_train.tasks.base import Batch


@dataclass(frozen=True)
class Rollout:
    """The result of several inner steps.

    Attributes:
        losses: outer losses after each step, `[steps, runs]`, or after the last one alone,
            `[1, runs]`. For a part of a longer rollout see `roll_out`.
        imitation: distance of each step from the teacher's, `[steps, runs]`.
        inner: the state after the last step.
    """

    losses: Tensor
    imitation: Tensor
    inner: InnerState


def roll_out(
    loop: InnerLoop,
    inner: InnerState,
    data: InnerData,
    steps: int,
    first: int = 0,
    *,
    more: bool = False,
) -> Rollout:
    """Take inner steps and evaluate the loss after each.

    Zero steps evaluate the given state. A run that diverges when it is evaluated is marked as not
    alive, as if it had diverged in a step.

    Args:
        loop: takes the steps.
        inner: the state before the first step.
        data: streams of batches, positioned at the first step.
        steps: number of steps.
        first: number of steps of this outer step that were taken before.
        more: another part follows. If steps are evaluated on the next training batch, or if the
            last step alone is evaluated, the loss after this part is then left to the next part. So
            the losses of consecutive parts, concatenated, are the losses of the whole.

    Raises:
        ValueError: zero steps without outer batches.
    """
    if steps == 0 and data.outer_batches is None:
        raise ValueError(
            'a run of zero inner steps needs outer data: set objective_data="validation" or "fresh"'
        )
    losses, distances = [], []
    device = inner.alive.device
    with own_randomness(device):  # losses may draw from it
        batch = data.training.next() if steps else None
        for step in range(steps):
            seed_globally(device, derive_seed(data.seed, first + step))
            inner, loss, distance = loop.step_and_compare(inner, batch)
            distances.append(distance)
            if data.outer_batches is not None and not data.last_only:
                inner, outer_loss = _evaluate(loop, inner, data.outer_batches.next())
                losses.append(outer_loss)
            elif data.outer_batches is None and first + step:  # the very first loss follows no step
                losses.append(loss)
            if step + 1 < steps:
                batch = data.training.next()
        if steps == 0:
            seed_globally(device, derive_seed(data.seed, first))
        if data.outer_batches is not None and (data.last_only or steps == 0) and not more:
            inner, outer_loss = _evaluate(loop, inner, data.outer_batches.next())
            losses.append(outer_loss)
        if data.outer_batches is None and not more:
            # The last step is evaluated too, on the batch that would come next.
            seed_globally(device, derive_seed(data.seed, first + steps))
            mark = data.training.mark()
            inner, outer_loss = _evaluate(loop, inner, data.training.next())
            data.training.rewind(mark)
            losses.append(outer_loss)
    if not distances:
        return Rollout(
            torch.stack(losses), inner.first_loss.new_zeros(0, *inner.alive.shape), inner
        )
    imitation = torch.stack(distances)
    # A single first step with more to follow has no loss after it yet.
    return Rollout(torch.stack(losses) if losses else imitation[:0], imitation, inner)


def _evaluate(loop: InnerLoop, inner: InnerState, batch: Batch) -> tuple[InnerState, Tensor]:
    """Return the outer loss and the state, in which only `alive` may change.

    Outer data are evaluated at the average of a rule that keeps one, as a user would.
    """
    point = loop.at_average(inner)
    after, loss = loop.loss_at(point, batch)
    return replace(inner, alive=after.alive), loss
