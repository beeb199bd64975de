"""Checks the values of settings against the types of their annotations, and makes numbers plain."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from os import PathLike
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor

from learned_opt.checks.arguments import shown


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


def setting_types(constructor: Callable[..., Any]) -> dict[str, Any]:
    """The types of the arguments of a class or function, by name."""
    if isinstance(constructor, type) and not is_dataclass(constructor):
        return get_type_hints(constructor.__init__)  # type: ignore[misc]
    return get_type_hints(constructor)  # of a dataclass, those of its fields


def fitted(name: str, value: Any, hint: Any) -> Any:
    """A value as its type has it: plain, 3.0 as a whole number 3, and a list as a tuple.

    Numbers, truth values, texts, mappings, and lists of them are checked. Values of other types
    pass; a choice is for its class to check, which suggests the nearest one.

    Args:
        name: the setting, for messages.
        value: its value.
        hint: its type.

    Raises:
        ValueError: the value does not fit: every 2.5 steps would be every fifth, any text would be
            true, and True would be one step.

    Examples:
        >>> fitted("steps", 3.0, int), fitted("sizes", [1, 2], tuple[int, ...])
        (3, (1, 2))
        >>> fitted("steps", "3", int | None)
        Traceback (most recent call last):
        ValueError: steps must be a whole number, got '3'
    """
    value = plain(value)
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _fitted_to_one(name, value, inside)
    if origin in (tuple, list, Sequence):
        return _fitted_list(name, value, hint)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be a mapping, got {shown(value)}")
        return {key: fitted(f"{name}[{key!r}]", part, inside[1]) for key, part in value.items()}
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint in _ACCEPTED:
        accepts, words = _ACCEPTED[hint]
        if not accepts(value):
            raise ValueError(f"{name} must be {words}, got {shown(value)}")
    return value


def _fitted_to_one(name: str, value: Any, hints: Sequence[Any]) -> Any:
    """The value, converted to the first type that it fits; else the error of the first type."""
    if value is None and type(None) in hints:
        return None
    first: ValueError | None = None
    for hint in hints:
        if hint is type(None):
            continue
        try:
            return fitted(name, value, hint)
        except ValueError as error:
            first = first or error
    raise first or ValueError(f"{name} must be None, got {shown(value)}")


def _fitted_list(name: str, value: Any, hint: Any) -> Any:
    origin, inside = get_origin(hint), get_args(hint)
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise ValueError(f"{name} must be a list, got {shown(value)}")
    fixed = origin is tuple and inside[-1] is not ...
    if fixed and len(value) != len(inside):
        raise ValueError(f"{name} must be a list of {len(inside)}, got {shown(value)}")
    kinds = inside if fixed else [inside[0]] * len(value)
    parts = [fitted(f"{name}[{k}]", *pair) for k, pair in enumerate(zip(value, kinds, strict=True))]
    return parts if isinstance(value, list) and origin is not tuple else tuple(parts)


def _is_number(value: object) -> bool:
    # Python takes True for the number 1. Infinity means none where a setting takes it.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


_ACCEPTED: Mapping[Any, tuple[Callable[[Any], bool], str]] = types.MappingProxyType(
    {
        int: (lambda value: isinstance(value, int) and _is_number(value), "a whole number"),
        float: (_is_number, "a number"),
        bool: (lambda value: isinstance(value, bool), "True or False"),
        str: (lambda value: isinstance(value, (str, PathLike)), "a text"),
    }
)
"""By type: whether a value has it, and how to say so. A path may stand for a text."""
