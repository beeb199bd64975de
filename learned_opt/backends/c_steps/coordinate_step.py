"""The base class of steps in C of coordinate-wise rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from learned_opt.backends.c_steps.step_in_c import StepInC, rates, sizes
from learned_opt.backends.coordinate_parts import coordinate_rule, left_to_rule
from learned_opt.backends.places import Places
from learned_opt.backends.plain_memory import is_plain, refuses_memory
from learned_opt.c_library import addresses, call_c
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.updates import PendingUpdate

ELEMENTS_PER_THREAD = 1 << 13
"""Fewest coordinates that are worth a thread: each takes 25 ns, and a thread 20 us to start."""

MOST_UNITS = 1024
"""Most units of all layers together: more do not fit on the stack of a thread."""


class CoordinateStepInC(StepInC, ABC):
    """Abstract: a network's step for each coordinate, in C, in blocks that stay in cache.

    C looks at all gradients first, and at parameters and state piece by piece, right before it
    steps them: somebody may have written them behind torch's back. Below some 1e15, nothing that
    the step writes can overflow. Tensors and pieces with larger numbers are left to the rule.

    Subclasses name their function and give it the rule's weights and settings.
    """

    function: ClassVar[str]
    """The name of the C function, without `learned_opt_`."""

    piece: ClassVar[int] = 1 << 12
    """Coordinates that C checks at once, and then steps while they are in the cache."""

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

    def state_shapes(self, rule: UpdateRule, shape: torch.Size) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the rule's state for each coordinate, and of `step`."""
        trailing = coordinate_rule(rule).coordinate_state()
        return {"step": (), **{key: (*shape, *trailing[key]) for key in self.states(rule)}}

    def step(
        self,
        rule: UpdateRule,
        places: Places,
        context: Context,
        maximize: bool,
    ) -> list[PendingUpdate]:
        """See `FusedStep.step`."""
        updates = places.updates
        elements = sizes([update.parameter for update in updates])
        pieces = -(-elements // self.piece)
        weights = self.weights(rule)  # alive until C returns, should a rule compute them
        numbers, counts = self.settings(rule)
        loss = 0.0
        if context.loss is not None:
            loss = -float(context.loss) if maximize else float(context.loss)
        untouched = np.zeros(len(updates), dtype=np.uint8)
        doubtful = np.zeros(int(pieces.sum()), dtype=np.uint8)
        threads = min(torch.get_num_threads(), int(elements.sum()) // ELEMENTS_PER_THREAD)
        call_c(
            self.function,
            len(updates),
            elements,
            places.table(["step", *self.states(rule)]),
            rates(updates),
            -1.0 if maximize else 1.0,
            self.piece,
            untouched,
            doubtful,
            addresses(weights),
            np.array([loss, *numbers], dtype=np.float64),
            np.array(counts, dtype=np.int64),
            max(1, threads),
        )
        return left_to_rule(coordinate_rule(rule), updates, untouched, doubtful, self.piece)
