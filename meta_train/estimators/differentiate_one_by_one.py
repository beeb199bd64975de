"""Differentiates through several inner runs one after another.

If one run keeps the processor busy, vectorised runs are not faster, and the graphs of all runs are
held together. Here each run's graph is freed before the next run begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_train.estimators.base import MetaObjective
from meta_train.estimators.differentiate import Derivative, differentiate
from meta_train.inner.batches import BatchStream, InnerData
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import InnerState, map_states, stack_states
from meta_train.runtime.seeding import derive_seed
from meta_train.tasks.base import Batch

_Value = TypeVar("_Value")


def differentiate_one_by_one(
    loop: InnerLoop,
    inner: InnerState,
    data: InnerData,
    steps: int,
    meta_objective: MetaObjective,
    leaves: Sequence[Tensor],
    checkpoint_steps: int | None = None,
) -> Derivative:
    """Like `differentiate` of a vectorised loop: same arguments, same result to rounding.

    Random numbers of the loss itself (dropout) are other ones, drawn for each run; copies of a run
    share them.

    Raises:
        ValueError: the loop is not vectorised.
    """
    if not loop.vectorize:
        raise ValueError("differentiate_one_by_one needs the state of a vectorised loop")
    # Cut the graph: a derivative through a row of a stack is as large as the stack, for every run.
    connected = [name for name, value in inner.named_tensors() if value.requires_grad]
    begin = inner.detach()
    marks = data.mark()
    found, adjoints = [], []
    for run in range(len(inner.alive)):
        row = map_states(lambda tensor, run=run: tensor[run], begin)
        named = dict(row.named_tensors())
        cut = [named[name].requires_grad_() for name in connected]
        for stream, mark in zip(data.streams(), marks, strict=True):
            position = run % len(stream.sources)  # copies of a run read the same batches
            stream.sources[position].set_state(mark[position])
        one = differentiate(
            _loop_of(loop, run),
            row,
            _data_of(data, run),
            steps,
            meta_objective,
            [*leaves, *cut],
            checkpoint_steps,
        )
        found.append(replace(one, gradients=one.gradients[: len(leaves)]))
        adjoints.append(one.gradients[len(leaves) :])
    counted = torch.stack([one.inner.alive for one in found]).sum().clamp_min(1)

    def mean(values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values)).sum(0) / counted

    gradients = [mean(values) for values in zip(*(one.gradients for one in found), strict=True)]
    if connected and leaves:
        named = dict(inner.named_tensors())
        through_start = torch.autograd.grad(
            [named[name] for name in connected],
            list(leaves),
            [torch.stack(values) / counted for values in zip(*adjoints, strict=True)],
            allow_unused=True,
            materialize_grads=True,
        )
        gradients = [a + b for a, b in zip(gradients, through_start, strict=True)]
    return Derivative(
        gradients=gradients,
        value=mean([one.value for one in found]),
        losses=torch.stack([one.losses for one in found], dim=1),
        inner=stack_states([one.inner for one in found]),
    )


def _loop_of(loop: InnerLoop, run: int) -> InnerLoop:
    """Return the loop of one of the runs."""

    def own(value: _Value) -> _Value | Tensor:
        return value[run] if isinstance(value, Tensor) and value.dim() else value

    return replace(
        loop,
        vectorize=False,
        lr=own(loop.lr),
        total_steps=own(loop.total_steps),
        weights=None if loop.weights is None else {k: v[run] for k, v in loop.weights.items()},
    )


def _data_of(data: InnerData, run: int) -> InnerData:
    """Return the data of one of the runs, from the same generators; copies share it all."""
    return replace(
        data,
        training=_StreamOfOne(data.training, run),
        outer_batches=None if data.outer_batches is None else _StreamOfOne(data.outer_batches, run),
        seed=derive_seed(data.seed, "run", run % len(data.training.sources)),
    )


class _StreamOfOne(BatchStream):
    """The batches of one run of a stream, without the leading axis."""

    def __init__(self, stream: BatchStream, run: int) -> None:
        position = run % len(stream.sources)
        super().__init__([stream.draws[position]], [stream.sources[position]], dtype=stream.dtype)

    def next(self) -> Batch:
        return pytree.tree_map(lambda tensor: tensor[0], super().next())
