"""Random settings of a family's members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

from learned_opt.registry import unknown

T = TypeVar("T")


def draw_choice(generator: torch.Generator, among: Sequence[T]) -> T:
    """One of `among`, all equally likely."""
    return among[int(torch.randint(len(among), (), generator=generator))]


def draw_int(generator: torch.Generator, bounds: Sequence[int]) -> int:
    """A whole number between the bounds, both included."""
    low, high = bounds
    return low + int(torch.randint(high - low + 1, (), generator=generator))


def draw_chance(generator: torch.Generator, probability: float) -> bool:
    """True with `probability`."""
    return float(torch.rand((), generator=generator)) < probability


def check_bounds(name: str, bounds: Sequence[int], least: int = 1) -> tuple[int, int]:
    """`bounds` as a pair.

    Raises:
        ValueError: not two numbers in order, from `least` on; names the setting.
    """
    low, high = bounds if len(bounds) == 2 else (0, -1)
    if not least <= low <= high:
        raise ValueError(f"{name} must be two numbers, {least} <= low <= high, got {bounds}")
    return low, high


def check_probability(name: str, value: float) -> float:
    """`value` itself.

    Raises:
        ValueError: it is not between 0 and 1; names the setting.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")
    return value


def check_not_negative(name: str, value: float) -> float:
    """`value` itself.

    Raises:
        ValueError: it is negative or NaN; names the setting.
    """
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    return value


def check_names(kind: str, names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """`names` as a tuple.

    Raises:
        ValueError: there are none, or one is not known; gives the nearest one.
    """
    if isinstance(names, str) or not names:
        raise ValueError(f"{kind} must be a list of names, got {names!r}")
    for name in names:
        if name not in known:
            raise ValueError(unknown(kind, name, known))
    return tuple(names)
