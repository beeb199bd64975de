"""Range checks of settings, whose errors name the setting and its value, and plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor

from learned_opt.arguments import shown

LARGEST = 1e30
"""Upper limit of real settings: larger ones overflow, and infinity is not valid JSON."""

_ACCEPTED: Mapping[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "True or False"),
}
"""By type of a field: the types that it accepts, and how to say so."""


def check_at_least(least: int, **values: float) -> None:
    """Check `least <= value`.

    Examples:
        >>> check_at_least(1, runs=0)
        Traceback (most recent call last):
        ValueError: runs must be at least 1, got 0

    Raises:
        ValueError: names the setting and its value.
    """
    _check_numbers(values)
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_positive(**values: float) -> None:
    """Check `0 < value <= 1e30`.

    Raises:
        ValueError: names the setting and its value.
    """
    _check_numbers(values)
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    _check_at_most_largest(values)


def check_not_negative(**values: float) -> None:
    """Check `0 <= value <= 1e30`.

    Raises:
        ValueError: names the setting and its value.
    """
    _check_numbers(values)
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    _check_at_most_largest(values)


def check_fraction(**values: float) -> None:
    """Check `0 <= value <= 1`.

    Raises:
        ValueError: names the setting and its value.
    """
    _check_numbers(values)
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")


def _check_numbers(values: Mapping[str, object]) -> None:
    for name, value in values.items():
        if not isinstance(plain(value), (int, float)):
            raise ValueError(f"{name} must be a number, got {shown(value)}")


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
    """Make the values in a dataclass of settings plain, of the types of their fields.

    Files and messages hold these values. Only numbers, truth values and lists of them are checked.

    Raises:
        ValueError: a value does not fit the type of its field: every 2.5 steps would be every
            fifth, and any text would be true.
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value = _fitted(field.name, plain(getattr(settings, field.name)), hints[field.name])
        object.__setattr__(settings, field.name, value)


def _fitted(name: str, value: Any, hint: Any) -> Any:
    """The value as the type of its field has it: a whole number of type float as an int."""
    inner = get_args(hint)
    if NoneType in inner:
        return None if value is None else _fitted(name, value, inner[0])
    if get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{name} must be a list, got {value!r}")
        return tuple(_fitted(f"{name}[{k}]", part, inner[0]) for k, part in enumerate(value))
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint in _ACCEPTED:
        types, words = _ACCEPTED[hint]
        # Python takes True for the number 1.
        if not isinstance(value, types) or (isinstance(value, bool) and hint is not bool):
            raise ValueError(f"{name} must be {words}, got {value!r}")
    return value
