"""Chooses between a rule's own step and faster code for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learned_opt.backends.fused_step import DeviceStep, FusedStep
from learned_opt.backends.registry import fused_steps
from learned_opt.optimizer.finite_guard import FiniteGuard
from learned_opt.optimizer.lost_memory import LostMemory
from learned_opt.optimizer.shared_memory import SharedMemory
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.updates import PendingUpdate


class FusedSteps:
    """Takes the steps for which a rule has faster code.

    Args:
        rule: the optimizer's.
        fused: None takes what fits; True raises where something does not fit; False takes nothing.

    Raises:
        ValueError: `fused` is True, and there is no such code for the rule or on this machine.
    """

    def __init__(self, rule: UpdateRule, fused: bool | None) -> None:
        self.option = fused
        self._steps = [] if fused is False else fused_steps(rule)
        self._lost_memory = LostMemory()
        self._shared_memory = SharedMemory()
        why_none = self._why_none(rule)
        if fused and why_none:
            raise ValueError(f"fused=True does not fit {why_none}")

    def check_parameter(self, parameter: Tensor) -> None:
        """Check a parameter of the optimizer.

        Raises:
            ValueError: `fused` is True, and no code takes the parameter.
        """
        if not self.option:
            return
        reasons = [step.refuses_parameter(parameter) for step in self._steps]
        if None not in reasons:
            shape = list(parameter.shape)
            raise ValueError(f"fused=True does not fit a parameter of shape {shape}: {reasons[0]}")

    def step(
        self,
        rule: UpdateRule,
        updates: Sequence[PendingUpdate],
        context: Context,
        maximize: bool,
        guard: FiniteGuard,
    ) -> list[PendingUpdate]:
        """Step tensors in place; return those that the rule itself must step.

        Args:
            rule: the rule, on the device of the tensors.
            updates: see `FusedStep.step`, like the rest.
            context: not yet checked.
            maximize: see `FusedStep.step`.
            guard: counts the tensors that a device skips.

        Raises:
            RuntimeError: `fused` is True, and a tensor does not fit; or see `LostMemory.check`.
            ValueError: the context lacks something that the rule needs.
        """
        if torch.compiler.is_compiling():
            if self.option:
                raise RuntimeError("fused=True does not fit: torch.compile cannot compile the step")
            return list(updates)
        if torch._C._functorch.peek_interpreter_stack() is not None:
            # Tensors in a transform look plain and have no memory.
            if self.option:
                raise RuntimeError("fused=True does not fit: the step is inside of torch.func")
            return list(updates)
        plan = self._share_out(rule, updates)
        if not plan:
            return list(updates)
        rule.check_context(context)
        moved: set[int] = set()
        for step, taken in plan:
            untouched = step.step(rule, taken, context, maximize)
            if untouched:
                doubtful = {id(update) for update in untouched}
                taken = [update for update in taken if id(update) not in doubtful]
            if isinstance(step, DeviceStep) and step.written is not None:
                guard.count_on_device(step.judged, step.written)
            # Written behind torch's back: autograd must know that saved tensors have changed.
            torch.autograd.graph.increment_version([update.parameter for update in taken])
            if len(taken) == len(updates):
                return []
            moved.update(map(id, taken))
        return [update for update in updates if id(update) not in moved]

    def _share_out(
        self, rule: UpdateRule, updates: Sequence[PendingUpdate]
    ) -> list[tuple[FusedStep, Sequence[PendingUpdate]]]:
        """Decide which code takes which tensors, before anything is written."""
        plan: list[tuple[FusedStep, Sequence[PendingUpdate]]] = []
        steps = [step for step in self._steps if step.refuses_rule(rule) is None]
        waiting = updates
        if steps:
            self._lost_memory.check(updates)
        shared = self._shared_memory.find(updates) if steps else {}
        if shared:
            if self.option:
                first = min(shared)
                raise RuntimeError(
                    f"fused=True does not fit {updates[first].name}: {shared[first]}"
                )
            waiting = [update for k, update in enumerate(updates) if k not in shared]
            steps = [step for step in steps if waiting and not step.shares_signals]
        why_not = ""
        for step in steps:
            refused = [(u, why) for u in waiting if (why := step.refuses(u)) is not None]
            if not refused:
                plan.append((step, waiting))
                return plan
            why_not = why_not or f"{refused[0][0].name}: {refused[0][1]}"
            if len(refused) < len(waiting) and not step.shares_signals:
                left = {id(update) for update, _ in refused}
                plan.append((step, [u for u in waiting if id(u) not in left]))
                waiting = [update for update, _ in refused]
        if self.option:
            raise RuntimeError(f"fused=True does not fit {why_not or self._why_none(rule)}")
        return plan

    def _why_none(self, rule: UpdateRule) -> str:
        """Why no code takes the rule; empty if some does."""
        reasons = [step.refuses_rule(rule) for step in self._steps]
        if not reasons:
            return f"rule {type(rule).__name__}: it has one implementation"
        return "" if None in reasons else f"rule {type(rule).__name__}: {reasons[0]}"
