"""Inner training over many steps, judged: the losses that a meta-objective is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meta_train.inner.batches import BatchStream, Mark
from meta_train.inner.loop import InnerLoop
from meta_train.inner.runs import Runs
from meta_train.inner.state import InnerState
from meta_train.runtime.seeding import derive_seed, own_randomness
from meta_train.tasks.base import Batch


@dataclass(frozen=True)
class Data:
    """What inner training reads in one outer step.

    Attributes:
        training: batches to train on.
        outer_batches: batches to judge by; None judges each step by the next training batch.
        seed: of what the loss itself draws (dropout).
        end_only: judge after the last step alone, if there is data to judge by: what an objective
            of the last loss needs, at the cost of one judgement.
    """

    training: BatchStream
    outer_batches: BatchStream | None
    seed: int
    end_only: bool = False

    def mark(self) -> list[Mark]:
        """Remember where all streams stand."""
        streams = (
            [self.training] if self.outer_batches is None else [self.training, self.outer_batches]
        )
        return [stream.mark() for stream in streams]

    def rewind(self, marks: list[Mark]) -> None:
        """Go back to where `mark` was called."""
        self.training.rewind(marks[0])
        if self.outer_batches is not None:
            self.outer_batches.rewind(marks[1])


@dataclass(frozen=True)
class Rollout:
    """Some steps of inner training.

    Attributes:
        losses: after each step, `[steps, runs]`, or the last one alone, `[1, runs]` (of a part of a
            rollout, see `roll_out`).
        imitation: how far each step was from the teacher's, `[steps, runs]`.
        inner: where training stands after them.
    """

    losses: Tensor
    imitation: Tensor
    inner: InnerState


def roll_out(
    loop: InnerLoop,
    inner: InnerState,
    data: Data,
    steps: int,
    first: int = 0,
    *,
    more: bool = False,
) -> Rollout:
    """Take steps and judge each by the loss after it.

    With no step at all the start itself is judged.

    Args:
        loop: see `InnerLoop`.
        inner: where training stands.
        data: streams that stand where these steps begin.
        steps: how many.
        first: how many steps of this outer step came before.
        more: whether others will follow. Where each step is judged by the next training batch, the
            judgement of the last one is then left to them, who compute that loss anyway; so the
            losses of consecutive parts, one after another, are those of the whole. So are they
            where the end alone is judged.

    Raises:
        ValueError: no step, and no data to judge by.
    """
    if steps == 0 and data.outer_batches is None:
        raise ValueError('no inner step needs data to judge by: objective_data="validation", say')
    losses, distances = [], []
    with own_randomness(inner.alive.device):  # losses may draw from it
        batch = data.training.next() if steps else None
        for step in range(steps):
            torch.manual_seed(derive_seed(data.seed, first + step))
            inner, loss, distance = loop.imitate(inner, batch)
            distances.append(distance)
            if data.outer_batches is not None and not data.end_only:
                inner, judged = _judge(loop, inner, data.outer_batches.next())
                losses.append(judged)
            elif data.outer_batches is None and first + step:  # the very first loss judges nothing
                losses.append(loss)
            if step + 1 < steps:
                batch = data.training.next()
        if data.outer_batches is not None and (data.end_only or steps == 0) and not more:
            inner, judged = _judge(loop, inner, data.outer_batches.next())
            losses.append(judged)
        if data.outer_batches is None and not more:
            # The last update is judged too, by the batch that would come next.
            torch.manual_seed(derive_seed(data.seed, first + steps))
            place = data.training.mark()
            inner, judged = _judge(loop, inner, data.training.next())
            data.training.rewind(place)
            losses.append(judged)
    distance = (
        torch.stack(distances) if distances else inner.first_loss.new_zeros(0, *inner.alive.shape)
    )
    # A single first step with more to come has no loss after it yet.
    return Rollout(torch.stack(losses) if losses else distance[:0], distance, inner)


def _judge(loop: InnerLoop, inner: InnerState, batch: Batch) -> tuple[InnerState, Tensor]:
    """The loss at `inner`; a run that shows there that it diverged is dead, the rest is kept."""
    looked, loss = loop.look(inner, batch)
    return replace(inner, alive=looked.alive), loss


def data_of(runs: Runs, outer_batches: str, outer_step: int, *, end_only: bool = False) -> Data:
    """What the runs read in an outer step.

    Args:
        runs: inner runs.
        outer_batches: see `MetaObjective.data`.
        outer_step: seeds the draws.
        end_only: see `Data`.
    """
    return Data(
        training=runs.stream(outer_step),
        outer_batches=None
        if outer_batches == "training"
        else runs.stream(outer_step, outer_batches),
        seed=derive_seed(runs.seed, "randomness", outer_step),
        end_only=end_only,
    )
