"""The estimates of all groups in all processes as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meta_train.estimators import Estimate, combine
from meta_train.runtime.distributed import DistributedContext


@dataclass(frozen=True)
class Reduced:
    """What all runs of all processes together say.

    Attributes:
        gradients: one per meta-parameter.
        meta_loss: mean over the runs that count.
        mean_loss: mean inner loss.
        group_losses: the mean meta-loss of each group; NaN where all of its runs diverged.
        counted: runs that count.
        diverged: runs that diverged.
        inner_steps: inner steps taken, all runs together.
        stop: some process was told to stop.
        late: some process's time is over.
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
) -> Reduced:
    """Average over the runs that count, in one message between the processes.

    Args:
        estimates: of each group, on this process's share of its runs.
        distributed: the processes.
        stop: this process was told to stop.
        late: this process's time is over.
    """
    own = combine(estimates)
    gradients = own.gradients
    flags = [own.diverged, own.inner_steps, stop, late]
    counts = [own.counted, *(estimate.counted for estimate in estimates)]
    facts = torch.tensor([*flags, *counts], dtype=torch.float64, device=own.meta_loss.device)
    means = [own.meta_loss, own.mean_loss, *(estimate.meta_loss for estimate in estimates)]
    weights = [own.counted, *counts]  # two means are over all runs, the others over a group's
    # A mean over no runs may be anything, and 0 * NaN is NaN.
    sums = torch.stack(
        [
            w * mean.double() if w else torch.zeros_like(mean.double())
            for w, mean in zip(weights, means, strict=True)
        ]
    )
    if distributed.size > 1:
        # In double precision, so that how runs are spread changes next to nothing.
        scaled = [own.counted * gradient.double() for gradient in gradients]
        *summed, sums, facts = distributed.sum([*scaled, sums, facts])
        total = facts[len(flags)].clamp_min(1)
        gradients = [(s / total).to(g.dtype) for s, g in zip(summed, gradients, strict=True)]
    # One transfer from the device.
    diverged, inner_steps, any_stop, any_late, counted, *others = torch.cat([facts, sums]).tolist()
    by_group, (meta_loss, mean_loss, *losses) = others[: len(estimates)], others[len(estimates) :]
    return Reduced(
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
