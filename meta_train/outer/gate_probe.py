"""Probes a rule: its inputs in the inner steps of a fresh run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from learned_opt.rules.base import Context, State
from meta_train.inner.loop import InnerLoop
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.runs.runs import Runs
from meta_train.inner.state import InnerState
from meta_train.runtime.seeding import own_randomness
from meta_train.tasks.base import Batch

LONGEST = 200
"""Most steps of a fresh run."""

OBSERVED = 50
"""Most steps of it that are probed, evenly spaced."""


@dataclass(frozen=True)
class GateProbe:
    """The arguments of one rule call, tensor by tensor.

    Attributes:
        names: parameter names.
        gradients: one per parameter.
        parameters: the parameters.
        states: the rule's state of each parameter.
        context: loss and planned steps.
    """

    names: list[str]
    gradients: list[Tensor]
    parameters: list[Tensor]
    states: list[State]
    context: Context


def fresh_run(
    runs: Runs, settings: LoopSettings, outer_step: int, device: torch.device
) -> Iterator[tuple[int, GateProbe]]:
    """Train the first run's problem once more from its beginning, and probe some of the steps.

    The run is as long as the first run, but at most `LONGEST` steps, and a rule that reads the
    planned number of steps is told so. It ends early if it diverges. No run changes.

    Args:
        runs: the first of them gives the problem.
        settings: how inner steps are taken.
        outer_step: seeds the batches.
        device: where the runs live.

    Yields:
        The number of an inner step, from 0, and the arguments of the rule in it.
    """
    length = min(runs.clocks.lengths[0], LONGEST)
    loop = replace(runs.bind(settings), differentiable=False)
    if loop.total_steps is not None:
        planned = torch.full((1,), float(length), dtype=runs.meta_parameters.rule.wide_dtype)
        loop = replace(loop, total_steps=planned.to(device))
    stream = runs.source.stream(runs.problems[:1], runs.indices[:1], outer_step, "batches")
    inner = runs.first_begins()
    every = -(-length // OBSERVED) if length else 1
    with own_randomness(device):
        for step in range(length):
            batch = pytree.tree_map(lambda tensor: tensor[:1], stream.next())
            if step % every == 0:
                yield step, _probe(loop, inner, batch)
            inner, _ = loop.step(inner, batch)
            if not bool(inner.alive[0]):
                return


def _probe(loop: InnerLoop, inner: InnerState, batch: Batch) -> GateProbe:
    losses, gradients = loop.gradients(inner, batch)
    names = list(inner.parameters)
    return GateProbe(
        names,
        [gradients[name][0] for name in names],
        [inner.parameters[name][0].detach() for name in names],
        [{key: value[0].detach() for key, value in inner.states[name].items()} for name in names],
        Context(
            loss=losses[0],
            total_steps=loop.total_steps[0] if isinstance(loop.total_steps, Tensor) else None,
        ),
    )
