"""Range checks of settings; each error names the setting and its value."""

from __future__ import annotations

LARGEST = 1e30
"""Upper limit of real settings: larger ones overflow, and infinity is not valid JSON."""


def check_at_least(least: int, **values: float) -> None:
    """Check `least <= value`.

    Example:
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
