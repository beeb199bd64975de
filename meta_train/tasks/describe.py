"""A task's settings as plain data, so that a resumed run can be held to the task it began with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from meta_train.tasks.base import TaskFamily

WHERE = frozenset({"folder", "download"})
"""Where data lies, which may change without the data changing."""


def describe(family: TaskFamily) -> dict[str, Any]:
    """The class, and what it was made with, as far as that is numbers, text or other tasks."""
    if is_dataclass(family):
        names = [field.name for field in fields(family)]
    else:
        names = list(inspect.signature(type(family).__init__).parameters)
    found = {name: _plain(getattr(family, name, None)) for name in names if name not in WHERE}
    kept = {name: value for name, value in found.items() if value is not None}
    return {"family": type(family).__name__, **kept}


def _plain(value: Any) -> Any:
    """Plain data, or None for anything else."""
    if isinstance(value, TaskFamily):
        return describe(value)
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [_plain(one) for one in value]
    return None


def difference(one: Any, other: Any, path: str = "") -> str | None:
    """The first place where two descriptions differ, in words; None if they do not."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in [*one, *(key for key in other if key not in one)]:
            found = difference(one.get(key), other.get(key), f"{path}.{key}" if path else str(key))
            if found is not None:
                return found
        return None
    return None if one == other else f"{path}={one}, not {other}"
