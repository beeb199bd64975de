"""What the steps in C of coordinate-wise rules share."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from learned_opt.backends.plain_memory import is_plain, refuses_memory, refuses_shapes
from learned_opt.backends.step_in_c import StepInC, rates, sizes
from learned_opt.c_library import addresses, call_c
from learned_opt.rules.base import Context, UpdateRule
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
        keys = ("step", *self.states(rule))
        if not isinstance(rule, CoordinateRule):
            raise TypeError(f"expected a CoordinateRule, got {type(rule).__name__}")
        shapes = _Shapes({"step": None, **rule.coordinate_state()}, keys)
        misfits: list[PendingUpdate] = []
        taken: list[PendingUpdate] = []
        states: list[list[Tensor]] = []
        known: list[bool] = []
        for update in updates:
            state = [update.state[key] for key in keys]
            is_known = self._own.is_known(state)
            if shapes.fit(update, state) and (is_known or self._has_roots(update)):
                taken.append(update)
                states.append(state)
                known.append(is_known)
            else:
                misfits.append(update)
        parameters = [update.parameter for update in taken]
        elements = sizes(parameters)
        # By role; in one go, since a call for each costs as much as its addresses.
        rows = [parameters, [update.gradient for update in taken], *zip(*states, strict=True)]
        weights = self.weights(rule)  # alive until C returns, should a rule compute them
        numbers, counts = self.settings(rule)
        loss = 0.0
        if context.loss is not None:
            loss = -float(context.loss) if maximize else float(context.loss)
        untouched = np.zeros(len(taken), dtype=np.uint8)
        threads = min(torch.get_num_threads(), int(elements.sum()) // ELEMENTS_PER_THREAD)
        call_c(
            self.function,
            len(taken),
            elements,
            addresses(list(chain.from_iterable(rows))),
            rates(taken),
            -1.0 if maximize else 1.0,
            np.array(known, dtype=np.uint8),
            untouched,
            addresses(weights),
            np.array([loss, *numbers], dtype=np.float64),
            np.array(counts, dtype=np.int64),
            max(1, threads),
        )
        left: list[PendingUpdate] = []
        for update, state, is_known, flag in zip(
            taken, states, known, untouched.tolist(), strict=True
        ):
            if flag:
                left.append(update)
            elif not is_known:
                self._own.note(state)
        return misfits + left

    def _has_roots(self, update: PendingUpdate) -> bool:
        """Whether C can take the roots of a state that it has not written itself."""
        if not update.parameter.numel():
            return True
        return all(float(update.state[key].min()) >= 0 for key in self.nonnegative)


class _Shapes:
    """Tells whether state fits parameter and rule.

    Args:
        trailing: the state's shape after that of the parameter, by name; None is a number's.
        keys: the order of the state.
    """

    def __init__(self, trailing: Mapping[str, tuple[int, ...] | None], keys: Sequence[str]) -> None:
        self._trailing = [trailing[key] for key in keys]
        self._expected: dict[tuple[int, ...], list[tuple[int, ...]]] = {}

    def fit(self, update: PendingUpdate, state: Sequence[Tensor]) -> bool:
        """Whether the state of a parameter, in the order of the keys, has the right shapes."""
        shape = update.parameter.shape
        if shape not in self._expected:
            self._expected[shape] = [
                () if rest is None else (*shape, *rest) for rest in self._trailing
            ]
        return [value.shape for value in state] == self._expected[shape]


class KnownStates:
    """Knows the states that C wrote last: they are in bounds, and need not be looked at again.

    torch counts the changes that others make to a tensor; what C writes does not count.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[weakref.ref[Tensor]], list[int]]] = {}

    def note(self, state: Sequence[Tensor]) -> None:
        """Remember a state, the rule's own tensors alone, `step` first, that C has written."""
        # Tensors that were made in inference mode count no changes.
        if any(value.is_inference() for value in state):
            return
        key, known = id(state[0]), self._known
        if key not in known:
            # The number may name another tensor once this one is gone.
            weakref.finalize(state[0], known.pop, key, None)
        refs = [weakref.ref(value) for value in state]
        known[key] = refs, [value._version for value in state]

    def is_known(self, state: Sequence[Tensor]) -> bool:
        """Whether a state is as C left it."""
        known = self._known.get(id(state[0]))
        if known is None:
            return False
        same = all(ref() is value for ref, value in zip(known[0], state, strict=True))
        return same and known[1] == [value._version for value in state]
