"""One way to look a name up, and to say which one was meant."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def look_up(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return `table[name]`.

    Args:
        kind: what the name is of, for the message: "rule", say.
        name: the key.
        table: what there is.

    Raises:
        ValueError: there is no such name; one line that gives the nearest one.
    """
    if name not in table:
        raise ValueError(unknown(kind, name, table))
    return table[name]


def create(
    kind: str, name: str, table: Mapping[str, Callable[..., T]], settings: Mapping[str, Any]
) -> T:
    """Call `table[name](**settings)`.

    Raises:
        ValueError: an unknown name or setting, or what the constructor refuses.
    """
    constructor = look_up(kind, name, table)
    known = inspect.signature(constructor).parameters
    for setting in settings:
        if setting not in known:
            raise ValueError(unknown(f"setting of {kind} {name!r}", setting, known))
    try:
        return constructor(**settings)
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        raise ValueError(f"settings of {kind} {name!r} do not fit: {given} ({error})") from error


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """Say in one line that `name` is not among `known`, and which of them is nearest."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(names)})"
