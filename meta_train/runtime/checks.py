"""Range checks of settings, whose errors name the setting and its value, and plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from learned_opt.checks.arguments import shown
from learned_opt.checks.setting_types import fitted, plain, setting_types

LARGEST = 1e30
"""Upper limit of real settings: larger ones overflow, and infinity is not valid JSON."""

MAX_THREADS = 1024
"""Upper limit of a number of threads: far more end the process in OpenMP, without an error."""


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


def check_threads(threads: int) -> None:
    """Check `1 <= threads <= 1024`.

    Raises:
        ValueError: names the setting and its value.
    """
    check_at_least(1, threads=threads)
    if threads > MAX_THREADS:
        raise ValueError(f"threads must be at most {MAX_THREADS}, got {threads}")


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


def make_plain(settings: Any) -> None:
    """Make the values in a dataclass of settings plain, of the types of their fields.

    Files and messages hold these values.

    Raises:
        ValueError: a value does not fit the type of its field: every 2.5 steps would be every
            fifth, and any text would be true.
    """
    hints = setting_types(type(settings))
    for field in fields(settings):
        value = fitted(field.name, getattr(settings, field.name), hints[field.name])
        object.__setattr__(settings, field.name, value)
