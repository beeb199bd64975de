"""Suggests the nearest name where a dataclass of settings is given an unknown one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, TypeVar

from learned_opt.registry import unknown

C = TypeVar("C", bound=type)


def suggest_names(renamed: Mapping[str, str] = MappingProxyType({})) -> Callable[[C], C]:
    """Decorate a dataclass: unknown names of settings get a message that helps.

    Args:
        renamed: former names of settings, and their present names.

    Raises:
        TypeError: when settings are made with an unknown name, as Python does; the message gives
            the nearest name, or the present name of a former one.

    Examples:
        >>> TrainSettings(outer_stesp=3)
        Traceback (most recent call last):
        TypeError: unknown setting of TrainSettings 'outer_stesp'; did you mean 'outer_steps'? ...
    """

    def decorate(cls: C) -> C:
        make = cls.__init__  # type: ignore[misc]  # of the class itself, not of a subclass
        known = [field.name for field in fields(cls) if field.init]

        @functools.wraps(make)
        def make_checked(self: Any, *args: Any, **settings: Any) -> None:
            for name in settings:
                if name in renamed:
                    raise TypeError(f"setting {name} is now called {renamed[name]}")
                if name not in known:
                    raise TypeError(unknown(f"setting of {cls.__name__}", name, known))
            make(self, *args, **settings)

        cls.__init__ = make_checked  # type: ignore[misc]
        return cls

    return decorate
