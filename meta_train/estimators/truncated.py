"""Truncated backpropagation through the unroll (Werbos 1990; Andrychowicz et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meta_train.objectives import meta_loss
from meta_train.runs import Runs
from meta_train.unroll import InnerLoop


@dataclass(frozen=True)
class Estimate:
    """One outer gradient, and what was seen on the way.

    Attributes:
        gradients: one per weight of the rule.
        meta_loss: 0-dim.
        mean_loss: mean inner loss of the living runs, 0-dim.
        diverged: runs that diverged in this window.
        inner_steps: inner steps taken, all runs together.
    """

    gradients: list[Tensor]
    meta_loss: Tensor
    mean_loss: Tensor
    diverged: int
    inner_steps: int


def truncated_backprop(
    loop: InnerLoop,
    runs: Runs,
    outer_step: int,
    objective: Callable[[Tensor], Tensor],
) -> Estimate:
    """Unroll one window of every run, differentiate, and let the runs stand where it ended.

    The window's losses are those after each of its steps: the last one, on a batch of its own, is
    what the last update is judged by. Gradients do not reach back into earlier windows, which
    biases them (Metz et al. 2019, arXiv 1810.10180); states are carried on.
    """
    window = runs.window
    batches = runs.batches(outer_step, window + 1)
    inner = runs.inner
    losses = []
    for batch in batches[:-1]:
        inner, loss = loop.step(inner, batch)
        losses.append(loss)
    last, loss = loop.look(inner, batches[-1])
    losses.append(loss)

    # The first loss of the window was fixed before the window began.
    judged = torch.stack(losses[1:])
    value = meta_loss(judged, last.alive, objective)
    weights = list(loop.rule.parameters())
    if value.requires_grad:
        gradients = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)
    else:
        gradients = tuple(torch.zeros_like(weight) for weight in weights)
    mean_loss = meta_loss(judged.detach(), last.alive, lambda loss: loss)
    # A run that diverged at the last look is replaced too; nothing else of the look is kept.
    diverged = runs.advance(replace(inner, alive=last.alive), window)
    return Estimate(
        list(gradients), value.detach(), mean_loss, diverged, window * len(runs.problems)
    )
