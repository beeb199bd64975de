"""Averages the estimates of all groups and processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meta_train.estimators import Estimate, combine
from meta_train.runtime.distributed import DistributedContext


@dataclass(frozen=True)
class ReducedEstimate:
    """One meta-gradient, averaged over the valid runs of all groups and processes.

    Attributes:
        gradients: one per meta-parameter.
        meta_loss: mean meta-objective of the valid runs.
        mean_loss: mean inner loss of the valid runs.
        group_losses: mean meta-objective of each group; NaN if all of its runs diverged.
        counted: number of valid runs.
        diverged: number of runs that diverged.
        inner_steps: inner steps taken, summed over runs.
        stop: a process received a stop signal.
        late: a process reached its time limit.
    """

    gradients: list[Tensor]
    meta_loss: float
    mean_loss: float
    group_losses: list[float]
    counted: int
    diverged: int
    inner_steps: int
    stop: bool
    late: bool


def reduce_estimates(
    estimates: Sequence[Estimate], distributed: DistributedContext, *, stop: bool, late: bool
) -> ReducedEstimate:
    """Average over the valid runs, with one message between the processes.

    Args:
        estimates: one per group, from this process's share of its runs.
        distributed: the processes.
        stop: this process received a stop signal.
        late: this process reached its time limit.
    """
    own = combine(estimates)
    gradients = own.gradients
    flags = [own.diverged, own.inner_steps, stop, late]
    counts = [own.counted, *(estimate.counted for estimate in estimates)]
    facts = torch.tensor([*flags, *counts], dtype=torch.float64, device=own.meta_loss.device)
    means = [own.meta_loss, own.mean_loss, *(estimate.meta_loss for estimate in estimates)]
    # The first two means are over all runs, the others over the runs of one group.
    weights = [own.counted, *counts]
    # The mean over no runs may be NaN, and 0 * NaN is NaN: leave it out.
    sums = torch.stack(
        [
            w * mean.double() if w else torch.zeros_like(mean.double())
            for w, mean in zip(weights, means, strict=True)
        ]
    )
    if distributed.size > 1:
        # In double precision: the split over processes should change almost nothing.
        scaled = [own.counted * gradient.double() for gradient in gradients]
        *summed, sums, facts = distributed.sum([*scaled, sums, facts])
        total = facts[len(flags)].clamp_min(1)
        gradients = [(s / total).to(g.dtype) for s, g in zip(summed, gradients, strict=True)]
    # Copy everything from the device at once.
    diverged, inner_steps, any_stop, any_late, counted, *others = torch.cat([facts, sums]).tolist()
    by_group, (meta_loss, mean_loss, *losses) = others[: len(estimates)], others[len(estimates) :]
    return ReducedEstimate(
        gradients,
        meta_loss / max(counted, 1),
        mean_loss / max(counted, 1),
        [v / n if n else math.nan for v, n in zip(losses, by_group, strict=True)],
        int(counted),
        int(diverged),
        int(inner_steps),
        bool(any_stop),
        bool(any_late),
    )
