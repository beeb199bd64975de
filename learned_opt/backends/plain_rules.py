"""Steps in C of hand-made rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from learned_opt.backends.step_in_c import LARGEST, StepInC, are_float32, largest, rates, sizes
from learned_opt.c_library import addresses, call_c, thread_count
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.updates import PendingUpdate


class SGDInC(StepInC):
    """Gradient descent: a pass that finds the largest numbers, and one that moves."""

    def step(
        self,
        rule: UpdateRule,
        updates: Sequence[PendingUpdate],
        context: Context,
        maximize: bool,
    ) -> list[PendingUpdate]:
        """See `FusedStep.step`."""
        lr, decay = np.abs(rates(updates).T)
        parameter = largest([update.parameter for update in updates]).astype(np.float64)
        gradient = largest([update.gradient for update in updates]).astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            # A bound on the new parameter. It is no number where one of them is not finite.
            bound = parameter * (1 + lr * decay) + gradient * lr
        is_safe = (bound < 0.9 * LARGEST) & are_float32(lr, decay)
        moved = [update for update, safe in zip(updates, is_safe, strict=True) if safe]
        counts = sizes([update.parameter for update in moved])
        call_c(
            "sgd",
            len(moved),
            counts,
            addresses([update.parameter for update in moved]),
            addresses([update.gradient for update in moved]),
            rates(moved),
            -1.0 if maximize else 1.0,
            thread_count(int(counts.sum())),
        )
        for update in moved:
            update.state["step"] += 1
        return [update for update, safe in zip(updates, is_safe, strict=True) if not safe]
