"""Draw and check the settings of a task family's tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

from learned_opt.registry import unknown

T = TypeVar("T")


def sample_choice(generator: torch.Generator, choices: Sequence[T]) -> T:
    """Draw one of `choices`, each with the same probability."""
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def sample_int(generator: torch.Generator, bounds: Sequence[int]) -> int:
    """Draw an integer from `bounds`, (lowest, highest), both included."""
    low, high = bounds
    return low + int(torch.randint(high - low + 1, (), generator=generator))


def sample_bool(generator: torch.Generator, probability: float) -> bool:
    """Draw True with `probability`."""
    return float(torch.rand((), generator=generator, dtype=torch.float32)) < probability


def check_range(name: str, bounds: Sequence[int], least: int = 1) -> tuple[int, int]:
    """Return `bounds` as a pair.

    Raises:
        ValueError: `bounds` is not a pair (lowest, highest) with least <= lowest <= highest.
    """
    low, high = bounds if len(bounds) == 2 else (0, -1)
    if not least <= low <= high:
        raise ValueError(f"{name} must be two numbers, {least} <= low <= high, got {bounds}")
    return low, high


def check_names(kind: str, names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return `names` as a tuple.

    Raises:
        ValueError: `names` is empty or a string, or contains an unknown name; the message suggests
            the nearest known one.
    """
    if isinstance(names, str) or not names:
        raise ValueError(f"{kind} must be a list of names, got {names!r}")
    for name in names:
        if name not in known:
            raise ValueError(unknown(kind, name, known))
    return tuple(names)
