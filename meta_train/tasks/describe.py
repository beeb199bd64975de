"""Describe a task's settings as plain data, so that resuming can check for the same task."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from meta_train.tasks.base import TaskFamily

LOCATION_SETTINGS = frozenset({"folder", "download"})
"""Where data is stored. A resumed run may read the same data from elsewhere."""


def describe(family: TaskFamily) -> dict[str, Any]:
    """The class name and the constructor's settings.

    A setting is included if the object keeps it under the same name and its value is a number, a
    string, another task, or a list or dict of these. Functions and tensors are left out.

    Examples:
        >>> describe(Quadratic(dimensions=3))
        {'family': 'Quadratic', 'dimensions': 3}
    """
    stored = vars(family)
    described: dict[str, Any] = {"family": type(family).__name__}
    for name in inspect.signature(type(family)).parameters:
        if name in stored and name not in LOCATION_SETTINGS:
            value = _plain(stored[name])
            if value is not None:
                described[name] = value
    return described


def _plain(value: Any) -> Any:
    """Plain data, or None for anything else."""
    if isinstance(value, TaskFamily):
        return describe(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [_plain(one) for one in value]
    return None


def difference(one: Any, other: Any, path: str = "") -> str | None:
    """The first difference between two descriptions, as text: "depth=3, not 4". None if equal."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in [*one, *(key for key in other if key not in one)]:
            found = difference(one.get(key), other.get(key), f"{path}.{key}" if path else str(key))
            if found is not None:
                return found
        return None
    return None if one == other else f"{path}={one}, not {other}"
