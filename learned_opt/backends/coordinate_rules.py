"""What the steps in C of coordinate-wise rules share."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.backends.plain_memory import is_plain, refuses_memory, refuses_shapes
from learned_opt.backends.step_in_c import StepInC, rates, sizes
from learned_opt.c_library import addresses, call_c
from learned_opt.rules.base import Context, State, UpdateRule
from learned_opt.rules.coordinate_rule import CoordinateRule
from learned_opt.updates import PendingUpdate

ELEMENTS_PER_THREAD = 1 << 13
"""A coordinate takes some 30 ns, and a thread 20 us to make."""


MOST_UNITS = 1024
"""In all layers together: more would not fit the stack of a thread."""


class CoordinateStepInC(StepInC, ABC):
    """Abstract: a network's step for each coordinate, in C, in blocks that stay in cache.

    C first looks at gradients and parameters, and at the states that it has not written itself. If
    they are below 1e15, nothing that the step writes can overflow. It leaves the other tensors.

    Subclasses name their function and give it the rule's weights and settings.
    """

    function: ClassVar[str]
    """The name of the C function, without `learned_opt_`."""

    nonnegative: ClassVar[tuple[str, ...]] = ()
    """State tensors of which C takes the root."""

    def __init__(self) -> None:
        self._own = KnownStates()

    @abstractmethod
    def states(self, rule: UpdateRule) -> list[str]:
        """The state tensors in the order that C expects; `step` comes before them."""

    @abstractmethod
    def weights(self, rule: UpdateRule) -> list[Tensor]:
        """The weights in the order that C expects."""

    @abstractmethod
    def settings(self, rule: UpdateRule) -> tuple[list[float], list[int]]:
        """Settings that are numbers and settings that are counts, in the order that C expects."""

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """Refuse rules that were cast, or whose weights are not plain memory of the CPU."""
        why = super().refuses_rule(rule)
        if why is not None:
            return why
        if sum(self.settings(rule)[1]) > MOST_UNITS:
            return f"it has more than {MOST_UNITS} units"
        for weight in self.weights(rule):
            if not is_plain(weight.detach()):
                return f"a weight {refuses_memory(weight.detach())}"
        return None

    def refuses(self, update: PendingUpdate) -> str | None:
        """Refuse a tensor if it, its gradient or its state is not plain memory, unit by unit."""
        if update.mesh is not None:
            # Processes agree on the gradients of sharded tensors, where the rule steps them.
            return "it is sharded"
        if not is_plain(update.parameter):
            return f"it {refuses_memory(update.parameter)}"
        if not is_plain(update.gradient):
            return f"its gradient {refuses_memory(update.gradient)}"
        dims = update.parameter.dim()
        for key, value in update.state.items():
            if not isinstance(value, Tensor):
                continue
            if value.dim() > dims:
                value = value.movedim(-1, 0)
            if not is_plain(value):
                return f"its state {key!r} {refuses_memory(value)}"
        return refuses_shapes(update, ())

    def step(
        self,
        rule: UpdateRule,
        updates: Sequence[PendingUpdate],
        context: Context,
        maximize: bool,
    ) -> list[PendingUpdate]:
        """See `FusedStep.step`."""
        if not isinstance(rule, CoordinateRule):
            raise TypeError(f"expected a CoordinateRule, got {type(rule).__name__}")
        shapes = {"step": None, **rule.coordinate_state()}
        own = ("step", *self.states(rule))
        misfits: list[PendingUpdate] = []
        fitting: list[PendingUpdate] = []
        for update in updates:
            fits = _has_shapes(update, shapes) and self._has_roots(update, own)
            (fitting if fits else misfits).append(update)
        updates, count = fitting, len(fitting)
        states = [{key: update.state[key] for key in own} for update in updates]
        elements = sizes([update.parameter for update in updates])
        rows = [[update.parameter for update in updates], [update.gradient for update in updates]]
        rows += [[state[key] for state in states] for key in own]
        weights = self.weights(rule)  # alive until C returns, should a rule compute them
        numbers, counts = self.settings(rule)
        loss = 0.0
        if context.loss is not None:
            loss = -float(context.loss) if maximize else float(context.loss)
        untouched = np.zeros(count, dtype=np.uint8)
        threads = min(torch.get_num_threads(), int(elements.sum()) // ELEMENTS_PER_THREAD)
        call_c(
            self.function,
            count,
            elements,
            np.concatenate([addresses(row) for row in rows]),
            rates(updates),
            -1.0 if maximize else 1.0,
            self._own.flags(states),
            untouched,
            addresses(weights),
            np.array([loss, *numbers], dtype=np.float64),
            np.array(counts, dtype=np.int64),
            max(1, threads),
        )
        left = [update for update, flag in zip(updates, untouched, strict=True) if flag]
        self._own.note([s for s, flag in zip(states, untouched, strict=True) if not flag])
        return misfits + left

    def _has_roots(self, update: PendingUpdate, own: Sequence[str]) -> bool:
        if not self.nonnegative or not update.parameter.numel():
            return True
        known = self._own.is_known({key: update.state[key] for key in own})
        return known or all(float(update.state[key].min()) >= 0 for key in self.nonnegative)


def _has_shapes(update: PendingUpdate, trailing: Mapping[str, tuple[int, ...] | None]) -> bool:
    """Whether the state fits parameter and rule; None is the shape of a number."""
    shape = update.parameter.shape
    return all(
        update.state[key].shape == (() if rest is None else (*shape, *rest))
        for key, rest in trailing.items()
    )


class KnownStates:
    """Knows the states that C wrote last: they are in bounds, and need not be looked at again.

    torch counts the changes that others make to a tensor; what C writes does not count.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[weakref.ref[Tensor]], list[int]]] = {}

    def flags(self, states: Sequence[State]) -> NDArray[np.uint8]:
        """1 for each state that is as C left it, `[n]`."""
        return np.array([self.is_known(state) for state in states], dtype=np.uint8)

    def note(self, states: Sequence[State]) -> None:
        """Remember states, the rule's own tensors alone, that C has written."""
        for state in states:
            # Tensors that were made in inference mode count no changes.
            counts = not any(value.is_inference() for value in state.values())
            if counts and not self.is_known(state):
                key, known = id(state["step"]), self._known
                if key not in known:
                    # The number may name another tensor once this one is gone.
                    weakref.finalize(state["step"], known.pop, key, None)
                refs = [weakref.ref(value) for value in state.values()]
                known[key] = refs, [value._version for value in state.values()]

    def is_known(self, state: State) -> bool:
        """Whether a state is as C left it."""
        known = self._known.get(id(state["step"]))
        if known is None:
            return False
        same = all(ref() is value for ref, value in zip(known[0], state.values(), strict=True))
        return same and known[1] == [value._version for value in state.values()]
