"""Hooks of a monitor on an optimizer: they count its steps and pick those to observe."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from torch import nn
from torch.optim import Optimizer

from learned_opt.checks.arguments import check_module, shown
from learned_opt.monitoring.observation_interval import ObservationInterval
from learned_opt.not_compiled import not_compiled
from learned_opt.optimizer.learned_optimizer import LearnedOptimizer
from learned_opt.rules.base import Context
from learned_opt.updates import PendingUpdate, distinct_names


class Attachment:
    """Calls `observe` with the updates of every step that the interval picks.

    A step may call the update hook several times (devices, options), so hooks before and after the
    step count it. None of them is compiled: that would happen again at every count.

    Args:
        optimizer: gets the hooks.
        interval: picks the steps.
        names: of tensors, by their position in the optimizer; others have their own names.
        observe: called with the optimizer, names and updates of some tensors, the context, and the
            number of steps that were taken before.
        end_step: called after every step.
    """

    def __init__(
        self,
        optimizer: LearnedOptimizer,
        interval: ObservationInterval,
        names: Mapping[str, str],
        observe: Callable[[LearnedOptimizer, list[str], list[PendingUpdate], Context, int], None],
        end_step: Callable[[], None],
    ) -> None:
        self._interval = interval
        self._names = names
        self._observe = observe
        self._end_step = end_step
        self._taken = 0
        self._due = False
        self._seconds = 0.0  # spent on the observation of this step
        self.handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_update_hook(self._on_updates),
            optimizer.register_step_post_hook(self._after_step),
        ]

    @not_compiled
    def _before_step(self, *_: object) -> None:
        self._due, self._seconds = self._interval.due(self._taken), 0.0

    @not_compiled
    def _on_updates(
        self, optimizer: LearnedOptimizer, updates: list[PendingUpdate], context: Context
    ) -> None:
        if not self._due:
            return
        began = time.perf_counter()
        own = distinct_names(optimizer, updates)
        names = [self._names.get(u.name, name) for u, name in zip(updates, own, strict=True)]
        self._observe(optimizer, names, updates, context, self._taken)
        self._seconds += time.perf_counter() - began

    @not_compiled
    def _after_step(self, *_: object) -> None:
        if self._due:
            self._interval.observed(self._taken, self._seconds)
        self._taken += 1
        self._end_step()


def names_by_position(optimizer: Optimizer, model: nn.Module) -> Mapping[str, str]:
    """The model's names of tensors that have none in the optimizer: {"0.3": "2.weight"}.

    Raises:
        ValueError: the optimizer trains no parameter of the model.
    """
    check_module(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if trained.isdisjoint(names):
        raise ValueError(
            f"the optimizer trains no parameter of the model, {shown(model)}: give the module "
            "whose parameters() it was made of"
        )
    return {
        f"{index}.{place}": names[id(parameter)]
        for index, group in enumerate(optimizer.param_groups)
        if "param_names" not in group
        for place, parameter in enumerate(group["params"])
        if id(parameter) in names
    }
