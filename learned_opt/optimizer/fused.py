"""Chooses between a rule's own step and faster code for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from learned_opt.backends.fused_step import DeviceStep, FusedStep
from learned_opt.backends.places import Addresses, Form, Places
from learned_opt.backends.registry import fused_steps
from learned_opt.optimizer.finite_guard import FiniteGuard
from learned_opt.optimizer.lost_memory import LostMemory
from learned_opt.optimizer.shared_memory import SharedMemory
from learned_opt.real_tensors import real_tensors
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.updates import PendingUpdate


@dataclass(frozen=True)
class _Plan:
    """Which code takes which tensors.

    Attributes:
        rule: that is stepped.
        steps: the code that takes it.
        form: of the tensors; None if the plan fits this step alone.
        addresses: of the tensors.
        shared: positions of tensors that share memory, with the reason.
        parts: code, and the positions of the tensors that it takes.
    """

    rule: UpdateRule
    steps: list[FusedStep]
    form: Form | None
    addresses: Addresses
    shared: dict[int, str]
    parts: list[tuple[FusedStep, list[int]]]


DEVICE_NAMES = {"cpu": "the CPU", "cuda": "a GPU"}
"""Devices for which there is faster code, as errors call them."""


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
        self._plan: _Plan | None = None
        with real_tensors():  # the rule has values under FakeTensorMode, too
            why_none = self._why_none(rule)
        if fused and why_none:
            raise ValueError(f"fused=True does not fit {why_none}")

    def check_parameter(self, rule: UpdateRule, parameter: Tensor) -> None:
        """Check a parameter of the optimizer, where `fused` is True.

        Args:
            rule: on the device of the parameter.
            parameter: to be stepped.

        Raises:
            ValueError: no code takes the parameter. The reason is that of the first choice among
                the code for its device.
        """
        device = parameter.device
        steps = self._fitting(rule, device)
        reasons = [step.refuses_parameter(parameter) for step in steps]
        if None in reasons:
            return
        why_not = reasons[0] if reasons else self._why_none_on(rule, device)
        shape = list(parameter.shape)
        raise ValueError(f"fused=True does not fit a parameter of shape {shape}: {why_not}")

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
        places = Places(updates)
        self._lost_memory.check(places)
        device = updates[0].parameter.device  # that of all
        steps = self._fitting(rule, device)
        if not steps:
            if self.option:
                why_not = self._why_none(rule)
                why_not = why_not or f"{updates[0].name}: {self._why_none_on(rule, device)}"
                raise RuntimeError(f"fused=True does not fit {why_not}")
            return list(updates)
        parts = self._share_out(rule, steps, places)
        if not parts:
            return list(updates)
        rule.check_context(context)
        taken: set[int] = set()
        left: list[PendingUpdate] = []
        for step, positions in parts:
            taken.update(positions)
            own = places if len(positions) == len(updates) else places.take(positions)
            untouched = step.step(rule, own, context, maximize)
            if isinstance(step, DeviceStep) and step.written is not None:
                guard.count_on_device(step.judged, step.written)
            left += untouched
            doubtful = {id(update) for update in untouched}
            moved = [update.parameter for update in own.updates if id(update) not in doubtful]
            # Written behind torch's back: autograd must know that saved tensors have changed.
            torch.autograd.graph.increment_version(moved)
        return left + [update for k, update in enumerate(updates) if k not in taken]

    def _share_out(
        self, rule: UpdateRule, steps: list[FusedStep], places: Places
    ) -> list[tuple[FusedStep, list[int]]]:
        """Decide which code takes which tensors, before anything is written.

        Where only numbers have changed since the last step, its plan stands. Where tensors have got
        other memory, such as gradients, only the memory is looked at.
        """
        form, last = places.read_form(), self._plan
        same_form = last is not None and form is not None and form == last.form
        stands = last is not None and same_form and rule is last.rule and steps == last.steps
        if last is not None and stands and np.array_equal(places.addresses, last.addresses):
            return last.parts
        self._plan = None  # should a check raise
        shared = self._shared_memory.find(places, same_form=same_form)
        if last is not None and stands and shared == last.shared:
            parts = last.parts
        else:
            parts = self._find_takers(rule, steps, places, shared)
        self._plan = _Plan(rule, steps, form, places.addresses, shared, parts)
        return parts

    def _find_takers(
        self,
        rule: UpdateRule,
        steps: list[FusedStep],
        places: Places,
        shared: dict[int, str],
    ) -> list[tuple[FusedStep, list[int]]]:
        updates = places.updates
        if shared and self.option:
            first = min(shared)
            raise RuntimeError(f"fused=True does not fit {updates[first].name}: {shared[first]}")
        parts: list[tuple[FusedStep, list[int]]] = []
        waiting = [k for k in range(len(updates)) if k not in shared]
        if shared:
            steps = [step for step in steps if waiting and not step.shares_signals]
        why_not: dict[int, str] = {}  # the reasons of the first choice
        for step in steps:
            found = {k: step.refuses(rule, updates[k]) for k in waiting}
            reasons = {k: why for k, why in found.items() if why is not None}
            if not reasons:
                parts.append((step, waiting))
                return parts
            why_not = why_not or reasons
            if len(reasons) < len(waiting) and not step.shares_signals:
                parts.append((step, [k for k in waiting if k not in reasons]))
                waiting = list(reasons)
        if self.option:
            first = next(k for k in waiting if k in why_not)
            raise RuntimeError(f"fused=True does not fit {updates[first].name}: {why_not[first]}")
        return parts

    def _fitting(self, rule: UpdateRule, device: torch.device) -> list[FusedStep]:
        """The code that takes the rule on a device."""
        here = [step for step in self._steps if step.device_type == device.type]
        return [step for step in here if step.refuses_rule(rule) is None]

    def _why_none_on(self, rule: UpdateRule, device: torch.device) -> str:
        """Why no code takes the rule on a device."""
        for step in self._steps:
            if step.device_type == device.type:
                return str(step.refuses_rule(rule))
        types = dict.fromkeys(step.device_type for step in self._steps)
        names = " or ".join(DEVICE_NAMES.get(name, name) for name in types)
        return f"it is on {device}, not on {names}"

    def _why_none(self, rule: UpdateRule) -> str:
        """Why no code takes the rule; empty if some does."""
        reasons = [step.refuses_rule(rule) for step in self._steps]
        if not reasons:
            return f"rule {type(rule).__name__}: it has one implementation"
        return "" if None in reasons else f"rule {type(rule).__name__}: {reasons[0]}"
