"""Hand-designed optimizers to compare with, the rates that they are tuned over, their schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

WARMUP = 0.03
"""The share of the steps over which the rate of a cosine rises."""


def rate_grid(low: float, high: float, per_decade: int = 3) -> tuple[float, ...]:
    """Rates from `low` to `high`, evenly spaced in the logarithm."""
    count = round(per_decade * math.log10(high / low)) + 1
    return tuple(low * 10 ** (k / per_decade) for k in range(count))


SCHEDULES: Mapping[str, Callable[[int, int], float]] = MappingProxyType(
    {
        "constant": lambda step, total: 1.0,
        "inverse": lambda step, total: 1 / (1 + step / 100),
        "cosine": lambda step, total: (
            min(1.0, step / (WARMUP * total)) * (1 + math.cos(math.pi * step / total)) / 2
        ),
    }
)
"""(step from 1, planned steps) to a factor on the rate."""


@dataclass(frozen=True)
class Baseline:
    """A hand-designed optimizer and the rates that it is tuned over.

    Attributes:
        label: what a reader sees.
        rule: its registered name.
        rates: the grid; wide enough that the best rate is not at an end.
        schedule: one of `SCHEDULES`.
        weight_decay: decoupled.
    """

    label: str
    rule: str
    rates: tuple[float, ...]
    schedule: str = "constant"
    weight_decay: float = 0.0


BASELINES: tuple[Baseline, ...] = (
    Baseline("Adam", "adam", rate_grid(1e-3, 1.0)),
    Baseline("RMSprop", "rmsprop", rate_grid(1e-3, 1.0)),
    Baseline("SGD + momentum", "momentum", rate_grid(1e-2, 10.0)),
    # The decay that `adam-lstm` has built in, so that a reader can see what is learned on top.
    Baseline("Adam, decayed", "adam", rate_grid(1e-3, 1.0), schedule="inverse"),
)
