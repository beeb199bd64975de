"""Range checks of settings, whose errors name the setting and its value, and plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from torch import Tensor

from learned_opt.registry import WHOLE

LARGEST = 1e30
"""Upper limit of real settings: larger ones overflow, and infinity is not valid JSON."""


def check_at_least(least: int, **values: float) -> None:
    """Check `least <= value`.

    Examples:
        >>> check_at_least(1, runs=0)
        Traceback (most recent call last):
        ValueError: runs must be at least 1, got 0

    Raises:
        ValueError: names the setting and its value.
    """
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_positive(**values: float) -> None:
    """Check `0 < value <= 1e30`.

    Raises:
        ValueError: names the setting and its value.
    """
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    _check_at_most_largest(values)


def check_not_negative(**values: float) -> None:
    """Check `0 <= value <= 1e30`.

    Raises:
        ValueError: names the setting and its value.
    """
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    _check_at_most_largest(values)


def check_fraction(**values: float) -> None:
    """Check `0 <= value <= 1`.

    Raises:
        ValueError: names the setting and its value.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")


def _check_at_most_largest(values: dict[str, float]) -> None:
    for name, value in values.items():
        if value > LARGEST:
            raise ValueError(f"{name} must be at most {LARGEST:g}, got {value}")


def plain(value: Any) -> Any:
    """Numbers of NumPy and torch as Python's, in lists, tuples and mappings too.

    Examples:
        >>> plain({"seed": np.int64(3), "horizons": (np.int64(2), 4)})
        {'seed': 3, 'horizons': (2, 4)}
    """
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    return value


def make_plain(settings: Any) -> None:
    """Make all numbers in a dataclass of settings plain: files and messages hold them.

    Raises:
        ValueError: a setting of type int is no whole number: every 2.5 steps would be every fifth.
    """
    for field in fields(settings):
        value = plain(getattr(settings, field.name))
        if str(field.type) in WHOLE and isinstance(value, float):
            if not value.is_integer():
                raise ValueError(f"{field.name} must be a whole number, got {value}")
            value = int(value)
        object.__setattr__(settings, field.name, value)
