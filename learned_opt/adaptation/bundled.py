"""The learned initialisations that ship with the package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Literal, overload

from learned_opt.checks.arguments import check_path
from learned_opt.files import expand
from learned_opt.registry import matching_names, unknown

INITIALIZATIONS: Mapping[str, str] = MappingProxyType(
    {
        "omniglot-maml": "conv4, 5-way 1-shot classification of drawn characters, 28 x 28",
        "omniglot-prototypical": "conv4 without a head, embeds drawn characters, 28 x 28",
    }
)
"""A line about each initialisation by its name."""


@overload
def list_initializations(
    filter: str = ..., *, with_description: Literal[False] = ...
) -> list[str]: ...
@overload
def list_initializations(
    filter: str = ..., *, with_description: Literal[True]
) -> list[tuple[str, str]]: ...
def list_initializations(
    filter: str = "*", *, with_description: bool = False
) -> list[str] | list[tuple[str, str]]:
    """List the learned initialisations that ship with the package.

    Args:
        filter: a pattern with shell wildcards, such as "omniglot-*".
        with_description: return (name, description) pairs.

    Examples:
        >>> list_initializations()
        ['omniglot-maml', 'omniglot-prototypical']
    """
    names = matching_names(sorted(INITIALIZATIONS), filter)
    return [(name, INITIALIZATIONS[name]) for name in names] if with_description else names


def find_initialization(name_or_path: str | PathLike[str]) -> Path:
    """The file of a bundled initialisation, or the path itself.

    Raises:
        TypeError: neither a name nor a path.
        ValueError: neither a bundled name nor a path: no file, no folder and no suffix.
    """
    check_path("name_or_path", name_or_path, "a name or a path")
    text = os.fspath(name_or_path)
    if text in INITIALIZATIONS:
        folder = Path(str(resources.files("learned_opt"))) / "pretrained" / "initializations"
        return folder / f"{text}.safetensors"
    if isinstance(name_or_path, str) and os.sep not in text and not Path(text).suffix:
        if not expand(text).exists():
            raise ValueError(unknown("initialisation", text, INITIALIZATIONS))
    return Path(text)
