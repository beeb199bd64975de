"""Warns of a `total_steps` that is ignored, exceeded, or replaced by a loaded one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from learned_opt.not_compiled import not_compiled
from learned_opt.real_tensors import has_no_values
from learned_opt.rules.base import State, UpdateRule


class StepPlan:
    """The planned number of steps of an optimizer's parameter groups.

    Counts their steps, and warns once past the end of a plan. Counted in Python, so that nothing
    waits for an accelerator. Where the rule reads no plan, nothing is counted.

    Args:
        rule: the update rule.
    """

    def __init__(self, rule: UpdateRule) -> None:
        self._rule_name = type(rule).__name__
        self._is_read = "total_steps" in rule.read_context()
        self._taken: list[int] = []
        self._warned = False

    def count(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Count a step of every group that has a gradient."""
        if self._is_read:  # asked here: the call below interrupts a compiled step
            self._count(groups)

    @not_compiled
    def _count(self, groups: Sequence[Mapping[str, Any]]) -> None:
        self._taken += [0] * (len(groups) - len(self._taken))
        for index, group in enumerate(groups):
            planned = group["total_steps"]
            if planned is None or all(parameter.grad is None for parameter in group["params"]):
                continue
            self._taken[index] += 1
            if self._taken[index] > planned and not self._warned:
                self._warned = True
                warnings.warn(
                    f"step {self._taken[index]} is past total_steps={planned}, the planned number "
                    "of optimizer steps: updates are now about a hundredth of their usual size. "
                    "Give the number of steps of the whole training",
                    RuntimeWarning,
                    stacklevel=8,  # the line that called step
                )

    def resume(self, groups: Sequence[Mapping[str, Any]], states: Mapping[Tensor, State]) -> None:
        """Count on from the steps that a loaded state has taken."""
        if not self._is_read:
            return
        self._taken = [
            max((_steps_of(states.get(parameter)) for parameter in group["params"]), default=0)
            for group in groups
        ]

    def warn_if_ignored(self, total_steps: int | None) -> None:
        """Warn that the rule does not read the planned number of steps."""
        if total_steps is not None and not self._is_read:
            warnings.warn(
                f"rule {self._rule_name} ignores total_steps={total_steps}: it makes no plan",
                UserWarning,
                stacklevel=3,  # the line that built the optimizer
            )

    def warn_if_replaced(
        self, before: Sequence[int | None], groups: Sequence[Mapping[str, Any]]
    ) -> None:
        """Warn that a loaded plan replaced the constructor's.

        Args:
            before: `total_steps` of the groups before the load.
            groups: the groups after it.
        """
        if not self._is_read:
            return
        for index, (own, group) in enumerate(zip(before, groups, strict=True)):
            loaded = group["total_steps"]
            if own != loaded:
                warnings.warn(
                    f"the loaded state has total_steps={loaded}, which replaces the constructor's "
                    f"total_steps={own}; to change the plan, set "
                    f'optimizer.param_groups[{index}]["total_steps"] after loading',
                    UserWarning,
                    stacklevel=3,  # the line that called load_state_dict
                )
                return


def _steps_of(state: State | None) -> int:
    step = None if state is None else state.get("step")
    return 0 if step is None or has_no_values(step) else int(step)
