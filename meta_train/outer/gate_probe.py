"""Gate probing: what a rule with gates would read in the next inner step of the first run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from learned_opt.rules.base import Context, State
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.runs import Runs
from meta_train.inner.state import map_states
from meta_train.runtime.seeding import own_randomness
from meta_train.tasks.base import Batch


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


def probe_gates(
    runs: Runs,
    settings: LoopSettings,
    outer_step: int,
    *,
    continues: bool,
    ahead: int,
    device: torch.device,
) -> GateProbe | None:
    """Compute the inputs of the rule in the first run's next inner step.

    Args:
        runs: the first of them is probed; none of them changes.
        settings: how inner steps are taken.
        outer_step: seeds the batches.
        continues: runs continue from one outer step to the next. Otherwise they have ended by now,
            so the first one is trained again for some steps.
        ahead: number of those steps, modulo the length of the run.
        device: where the runs live.

    Returns:
        The inputs; None if the first run has no inner step.
    """
    loop = runs.bind(settings)
    if isinstance(loop.total_steps, Tensor):
        loop = replace(loop, total_steps=loop.total_steps[:1])
    stream = runs.stream(outer_step)
    if continues:
        inner = map_states(lambda tensor: tensor[:1], runs.inner)
    else:
        if not runs.lengths[0]:
            return None
        inner = runs.first_begins()
        evaluating = replace(loop, differentiable=False)
        with own_randomness(device):
            for _ in range(ahead % runs.lengths[0]):
                inner, _ = evaluating.step(inner, _first_run(stream.next()))
    losses, gradients = loop.gradients(inner, _first_run(stream.next()))
    planned = loop.total_steps[0] if isinstance(loop.total_steps, Tensor) else None
    names = list(inner.parameters)
    return GateProbe(
        names,
        [gradients[name][0] for name in names],
        [inner.parameters[name][0].detach() for name in names],
        [{key: value[0].detach() for key, value in inner.states[name].items()} for name in names],
        Context(loss=losses[0], total_steps=planned),
    )


def _first_run(batch: Batch) -> Batch:
    """The batch of the first run, `[1, ...]`."""
    return pytree.tree_map(lambda tensor: tensor[:1], batch)
