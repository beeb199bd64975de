"""Evaluates at the running average under torch's ZeroRedundancyOptimizer, which has no `eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from learned_opt.optimizer.learned_optimizer import LearnedOptimizer

if TYPE_CHECKING:
    from torch.distributed.optim import ZeroRedundancyOptimizer


@torch.no_grad()
def evaluate(optimizer: ZeroRedundancyOptimizer, mode: bool = True) -> None:
    """Put the average of the weights in the model of every process, as `LearnedOptimizer.eval`.

    Each process keeps the state of its share of the parameters. It swaps those, and sends them to
    the others. All processes must call this.

    Args:
        optimizer: with `LearnedOptimizer` as its `optimizer_class`.
        mode: False puts the weights to train on back, as `LearnedOptimizer.train`.

    Raises:
        TypeError: there is no `LearnedOptimizer` inside.

    Examples:
        >>> from learned_opt.optimizer.zero import evaluate
        >>> evaluate(optimizer)  # doctest: +SKIP
        >>> evaluate(optimizer, False)  # doctest: +SKIP
    """
    local = optimizer.optim
    if not isinstance(local, LearnedOptimizer):
        raise TypeError(f"optimizer must hold a LearnedOptimizer, got {type(local).__name__}")
    local.train(not mode)
    own = {parameter for group in local.param_groups for parameter in group["params"]}
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    group, rank = optimizer.process_group, dist.get_rank()
    owners = torch.tensor(
        [rank if parameter in own else -1 for parameter in every], device=every[0].device
    )
    dist.all_reduce(owners, dist.ReduceOp.MAX, group)
    for parameter, owner in zip(every, owners.tolist(), strict=True):
        dist.broadcast(parameter.data, owner, group)
