"""Losses of one optimizer on many problems, at every learning rate of a grid, all together."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from learned_opt.rules import UpdateRule
from meta_train.evaluation.baselines import SCHEDULES
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import InnerState, stack, start
from meta_train.runtime.device import choose_device
from meta_train.runtime.seeding import generator, seeded
from meta_train.tasks import Task


@dataclass(frozen=True)
class Curves:
    """Losses of one optimizer, at every learning rate and on every seed.

    Attributes:
        losses: training loss of each step, `[learning rates, seeds, steps]`; infinite after
            divergence.
        checked: steps after which the loss on all data was computed, `[checks]`.
        full_losses: loss on all data, `[learning rates, seeds, checks]`.
    """

    losses: Tensor
    checked: Tensor
    full_losses: Tensor

    def mean_losses(self, steps: int) -> Tensor:
        """Mean training loss over the first `steps` steps, `[learning rates, seeds]`."""
        return self.losses[..., :steps].mean(-1)

    def final_losses(self, steps: int) -> Tensor:
        """Loss on all data after `steps` steps, `[learning rates, seeds]`."""
        position = int((self.checked == steps).nonzero()[0, 0])
        return self.full_losses[..., position]

    def steps_to_reach(self, target: float) -> float:
        """Steps until the mean loss over seeds is at most `target`, at the fastest learning rate.

        Infinite if no learning rate reaches it.
        """
        reached = self.full_losses.mean(1) <= target
        if not bool(reached.any()):
            return math.inf
        return float(torch.where(reached, self.checked.double(), math.inf).min())


def train_curves(
    rule: UpdateRule,
    task: Task,
    *,
    seeds: Sequence[int],
    steps: int,
    learning_rates: Sequence[float] | None = None,
    schedule: str = "constant",
    weight_decay: float = 0.0,
    check_every: int = 5,
    planned_steps: int | None = None,
    device: torch.device | str = "auto",
) -> Curves:
    """Train one problem per seed and learning rate, all together.

    Random numbers of the loss itself (dropout) are the same at every call, whatever was drawn
    before.

    Args:
        rule: the update rule.
        task: source of the problems. A seed gives the same problem for every rule.
        seeds: one problem each.
        steps: inner steps.
        learning_rates: learning rates; None is the rule's own.
        schedule: see `Baseline`.
        weight_decay: decoupled weight decay.
        check_every: steps between evaluations on all data.
        planned_steps: the steps that a schedule and a rule are told; None for `steps`. A run that
            goes on after them keeps the schedule's last learning rate.
        device: device of training.

    Returns:
        The losses, on the CPU.
    """
    device = choose_device(device)
    rule = rule if rule.device == device else copy.deepcopy(rule).to(device)
    problems = [task.sample(generator("evaluate", seed), device) for seed in seeds]
    batches = [generator("evaluate", seed, "batches") for seed in seeds]
    full = stack([problem.full() for problem in problems])
    learning_rates = [rule.default_lr] if learning_rates is None else learning_rates
    copies = len(learning_rates)
    planned = steps if planned_steps is None else planned_steps

    def at_every_rate(tree: Any) -> Any:
        """`[seeds, ...]` to `[learning rates * seeds, ...]`."""
        return pytree.tree_map(lambda t: t.repeat(copies, *([1] * (t.dim() - 1))), tree)

    rates = torch.tensor(list(learning_rates), dtype=torch.float32, device=device)
    lr = rates.repeat_interleave(len(seeds))
    loop = InnerLoop(
        rule,
        problems[0].loss,
        vectorize=True,
        weight_decay=weight_decay,
        total_steps=None if rule.averages else planned,
        differentiable=False,
    )
    begin = start(rule, problems, vectorize=True)
    fields = {name: at_every_rate(getattr(begin, name)) for name in begin.__dataclass_fields__}
    inner = InnerState(**fields)
    full = at_every_rate(full)

    losses, full_losses, checked = [], [], []
    with seeded(device, "evaluate", "randomness", *seeds):  # losses may draw from it
        for step in range(1, steps + 1):
            batch = stack([p.draw(source) for p, source in zip(problems, batches, strict=True)])
            loop = replace(loop, lr=lr * SCHEDULES[schedule](step, planned))
            inner, loss = loop.step(inner, at_every_rate(batch))
            losses.append(torch.where(inner.alive, loss, math.inf))
            if step % check_every == 0 or step == steps:
                value = loop.evaluate(inner, full)
                full_losses.append(torch.where(inner.alive, value, math.inf).nan_to_num(math.inf))
                checked.append(step)
    shape = (copies, len(seeds), -1)
    return Curves(
        losses=torch.stack(losses, -1).reshape(shape).cpu(),
        checked=torch.tensor(checked),
        full_losses=torch.stack(full_losses, -1).reshape(shape).cpu(),
    )
