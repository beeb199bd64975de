"""Shows a wrong argument in one line, and checks types of arguments."""

from __future__ import annotations

import numbers
from os import PathLike
from types import NoneType

from torch import Tensor, nn

_PLAIN = (NoneType, str, bytes, numbers.Number, PathLike)
"""Types whose representation says what a value is."""

LONGEST = 80
"""Most characters of a text that are shown."""


def shown(value: object) -> str:
    """A wrong argument, for an error of one line.

    Texts, numbers and None are shown as they are, a class by its name, everything else by its type:
    the representation of a module or an optimizer has many lines.

    Examples:
        >>> shown("adam"), shown(nn.Linear(2, 1)), shown(nn.Linear), shown(torch.ones(2, 3))
        ("'adam'", 'a Linear', 'the class Linear', 'a Tensor [2, 3]')
    """
    if isinstance(value, _PLAIN):
        return shortened(repr(value))
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Tensor):
        return f"a Tensor {list(value.shape)}" if value.dim() else shortened(repr(value))
    name = type(value).__name__
    text = f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
    if isinstance(value, (tuple, list, dict)):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        whole = repr(value)
        if len(whole) <= LONGEST and all(isinstance(part, _PLAIN) for part in parts):
            return whole
    return text


def shortened(text: str) -> str:
    """The text in one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def check_type(name: str, value: object, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Check that an argument is an instance of one of some types.

    Args:
        name: the argument.
        value: its value.
        kinds: the types.
        wanted: names the types, for the message.

    Raises:
        TypeError: it is not; the message names the argument.

    Examples:
        >>> check_type("keep", 3, (list, tuple), "a list of names")
        Traceback (most recent call last):
        TypeError: keep must be a list of names, got 3
    """
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {wanted}, got {shown(value)}")


def check_path(name: str, path: object, wanted: str = "a path") -> None:
    """Check that an argument is a path.

    Raises:
        TypeError: it is not; the message names the argument.
    """
    check_type(name, path, (str, PathLike), wanted)


def check_function(name: str, value: object, wanted: str) -> None:
    """Check that an argument can be called.

    Raises:
        TypeError: it cannot; the message names the argument.
    """
    if not callable(value):
        raise TypeError(f"{name} must be {wanted}, got {shown(value)}")


def check_module(module: object) -> None:
    """Check that an argument is a module.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"module must be an nn.Module, got {shown(module)}")
