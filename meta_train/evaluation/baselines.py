"""Hand-designed optimizers to compare with, their learning rates and schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from learned_opt.registry import look_up
from learned_opt.rules import RULES
from meta_train.runtime.checks import check_not_negative, check_positive, make_plain

WARMUP = 0.03
"""Fraction of the steps in which the cosine schedule warms up."""


def learning_rate_grid(low: float, high: float, per_decade: int = 3) -> tuple[float, ...]:
    """Learning rates from `low` to `high`, evenly spaced in the logarithm."""
    count = round(per_decade * math.log10(high / low)) + 1
    return tuple(low * 10 ** (k / per_decade) for k in range(count))


SCHEDULES: Mapping[str, Callable[[int, int], float]] = MappingProxyType(
    {
        "constant": lambda step, total: 1.0,
        "inverse": lambda step, total: 1 / (1 + step / 100),
        "cosine": lambda step, total: (
            min(1.0, step / (WARMUP * total)) * (1 + math.cos(math.pi * min(1.0, step / total))) / 2
        ),
    }
)
"""(step from 1, planned steps) -> factor on the learning rate."""


@dataclass(frozen=True)
class Baseline:
    """A hand-designed optimizer, tuned over a grid of learning rates.

    Attributes:
        label: name in tables and pictures.
        rule: registered name of its update rule.
        learning_rates: the grid, wide enough that the best learning rate is not at its edge.
        schedule: one of `SCHEDULES`.
        weight_decay: decoupled weight decay.

    Raises:
        ValueError: names the value that does not fit.
    """

    label: str
    rule: str
    learning_rates: tuple[float, ...]
    schedule: str = "constant"
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        make_plain(self)
        look_up("rule", self.rule, RULES)
        look_up("schedule", self.schedule, SCHEDULES)
        if not self.learning_rates:
            raise ValueError("learning_rates must not be empty")
        for rate in self.learning_rates:
            check_positive(learning_rates=rate)
        check_not_negative(weight_decay=self.weight_decay)


BASELINES: tuple[Baseline, ...] = (
    Baseline("Adam", "adam", learning_rate_grid(1e-3, 1.0)),
    Baseline("RMSprop", "rmsprop", learning_rate_grid(1e-3, 1.0)),
    Baseline("SGD + momentum", "momentum", learning_rate_grid(1e-2, 10.0)),
    # The decay that is built into `adam-lstm`: shows what learning adds to it.
    Baseline("Adam, decayed", "adam", learning_rate_grid(1e-3, 1.0), schedule="inverse"),
)
