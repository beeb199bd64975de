"""Looks names up, and suggests the nearest one where a name is unknown."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from learned_opt.checks.arguments import shown
from learned_opt.checks.setting_types import fitted, setting_types

T = TypeVar("T")

SIMILAR = 0.6
"""Least similarity, as `difflib` counts it, of a name that is suggested for an unknown one."""


def look_up(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return `table[name]`.

    Args:
        kind: the kind of thing, for the message, such as "rule".
        name: the key.
        table: values by name.

    Raises:
        ValueError: no name, or an unknown one; the message, one line, suggests the nearest one.
    """
    if not isinstance(name, str):
        known = ", ".join(sorted(table))
        raise ValueError(f"{kind} must be a name, got {shown(name)} (known: {known})")
    if name not in table:
        raise ValueError(unknown(kind, name, table))
    return table[name]


def create(
    kind: str, name: str, table: Mapping[str, Callable[..., T]], settings: Mapping[str, Any]
) -> T:
    """Call `table[name](**settings)`.

    Raises:
        ValueError: an unknown name or setting, one that is missing, one of another type than its
            annotation says (see `fitted`), or a value that the constructor refuses.
    """
    constructor = look_up(kind, name, table)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = {
        key: parameter
        for key, parameter in inspect.signature(constructor).parameters.items()
        if parameter.kind in named
    }
    for setting in settings:
        if setting not in known:
            raise ValueError(unknown(f"setting of {kind} {name!r}", setting, known))
    for setting, parameter in known.items():
        if parameter.default is parameter.empty and setting not in settings:
            raise ValueError(f"{kind} {name!r} needs the setting {setting}")
    hints = setting_types(constructor)
    fit = {key: fitted(key, value, hints.get(key, Any)) for key, value in settings.items()}
    try:
        return constructor(**fit)
    except TypeError as error:
        given = ", ".join(f"{key}={shown(value)}" for key, value in settings.items())
        raise ValueError(f"settings of {kind} {name!r} do not fit: {given} ({error})") from error


def matching_names(names: Iterable[str], filter: str) -> list[str]:
    """The names that match a pattern with shell wildcards, in their order.

    Raises:
        TypeError: the pattern is no text.
    """
    if not isinstance(filter, str):
        raise TypeError(f"filter must be a pattern such as '*lstm', got {shown(filter)}")
    return [name for name in names if fnmatchcase(name, filter)]


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for an unknown name: one line with the nearest name and all known ones."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=SIMILAR)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (known: {', '.join(names) or 'none'})"
