"""The base class of steps in C: checks whether one fits, and hands lists of tensors to C."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.backends.plain_memory import PlainMemoryStep, refuses_cast
from learned_opt.c_library import missing_library
from learned_opt.rules.base import UpdateRule
from learned_opt.updates import PendingUpdate

LARGEST = float(np.finfo(np.float32).max)
"""The largest finite number in float32."""


class StepInC(PlainMemoryStep, ABC):
    """Abstract: a step in C. Subclasses add `step`."""

    code = "C"

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """Refuse where there is no library, and rules that were cast to another dtype."""
        return refuses_cast(rule) or missing_library()


def sizes(tensors: Sequence[Tensor]) -> NDArray[np.int64]:
    """Numbers of elements, as C reads them."""
    return np.fromiter(map(Tensor.numel, tensors), np.int64, len(tensors))


def rates(updates: Sequence[PendingUpdate]) -> NDArray[np.float64]:
    """Learning rate and weight decay of each tensor, `[n, 2]`."""
    pairs: dict[int, tuple[float, float]] = {}
    for update in updates:
        group = update.group
        if id(group) not in pairs:
            pairs[id(group)] = float(group["lr"]), float(group["weight_decay"])
    return np.array([pairs[id(update.group)] for update in updates], dtype=np.float64)


def are_float32(lr: NDArray[np.float64], decay: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether learning rates and their products with the weight decays are finite in float32.

    An infinite one times a zero is no number, whatever the bound on a step says.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray((np.abs(lr) < LARGEST) & (np.abs(lr * decay) < LARGEST))
