"""Reads changes of settings from text: names and types are checked against a dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from learned_opt.registry import look_up


def read_changes(
    kind: str, given: Mapping[str, Any], settings: type, renamed: Mapping[str, str]
) -> dict[str, Any]:
    """Check changes of a dataclass's fields and convert their values.

    Args:
        kind: for messages, such as "setting of training".
        given: values by field name.
        settings: the dataclass.
        renamed: former names of fields, and their present names.

    Returns:
        The same names, with values of the types of the fields.

    Raises:
        ValueError: a former name (the message gives the present one), an unknown name (it gives the
            nearest one), or a value that does not fit the type.

    Examples:
        >>> read_changes("setting of training", {"horizons": [1, 5]}, TrainSettings, {})
        {'horizons': (1, 5)}
    """
    for name in given:
        if name in renamed:
            raise ValueError(f"setting {name} is now called {renamed[name]}")
    hints = get_type_hints(settings)
    names = {field.name: field.name for field in dataclasses.fields(settings)}
    return {
        name: _as_type(name, value, hints[look_up(kind, name, names)])
        for name, value in given.items()
    }


def _as_type(name: str, value: Any, hint: Any) -> Any:
    arguments = get_args(hint)
    wanted = str(hint) if arguments else hint.__name__
    error = ValueError(f"{name} must be {wanted}, got {value!r}")
    if value is None:  # The parser accepts None for any type.
        if type(None) in arguments:
            return None
        raise error
    if isinstance(value, Mapping) and get_origin(hint) in (dict, Mapping):
        return dict(value)  # The parser would read texts inside as YAML: "off" as False.
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--setting", type=hint)
    try:
        return parser.parse_object({"setting": value}).setting
    except ArgumentError:
        raise error from None
