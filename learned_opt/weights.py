"""Reads and writes weights of learned rules: safetensors with a JSON header, never pickle.

A file holds the rule's weights. Its header holds the rule's registered name, its settings, and a
card of facts: the tasks of meta-training, its settings, the measurements. Pretrained rules ship
inside the package.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from importlib import resources
from os import PathLike
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from learned_opt.checks.arguments import check_path, check_type
from learned_opt.files import (
    check_version,
    expand,
    one_line,
    read_json,
    read_tensors,
    write_tensors,
)
from learned_opt.real_tensors import real_tensors
from learned_opt.registry import matching_names, unknown
from learned_opt.rules import RULES, create_rule, list_rules, rule_name
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.rule_argument import check_rule
from learned_opt.rules.saved_rules import build_saved_rule

FORMAT = "learned_opt.rule"
VERSION = 1
FIELDS = ("version", "rule", "settings", "card", "dtype")
"""The header of a file. The dtype is that of a rule without weights, if it is not float32."""

PRETRAINED: Mapping[str, str] = MappingProxyType(
    {
        "andrychowicz-lstm": "lstm, as in Andrychowicz et al. 2016; for small networks, 100 steps",
        "digits-lstm": "adam-lstm, for small networks and hundreds of steps",
        "step-size-lstm": "step-size-lstm, for general use; needs total_steps",
    }
)
"""The rules that ship with the package: a line about each by its name."""


def save_rule(
    rule: UpdateRule, path: str | PathLike[str], card: Mapping[str, Any] | None = None
) -> None:
    """Write a rule to a file, completely or not at all.

    Args:
        rule: a rule of a registered class.
        path: the file; an existing one is replaced.
        card: facts that JSON can hold, such as the tasks of meta-training and measurements.

    Raises:
        ValueError: not a rule, or its class is not registered, so the file could not be loaded.
        TypeError: not a path, or a card that is no mapping.
        OSError: the disk is full or the folder cannot be written; an old file is unchanged.

    Examples:
        >>> save_rule(create_rule("lstm"), "my-rule.safetensors", {"trained_on": "my task"})
        >>> optimizer = LearnedOptimizer(model.parameters(), rule="my-rule.safetensors")
    """
    check_rule(rule)
    check_type("card", card, (Mapping, NoneType), "a mapping")
    name = rule_name(rule)
    if name not in list_rules():
        raise ValueError(f"cannot save rule {name}: its class is not registered")
    metadata = {
        "version": str(VERSION),
        "rule": name,
        "settings": json.dumps(rule.settings),
        "card": json.dumps(dict(card or {})),
    }
    tensors = rule.state_dict()
    if not _dtypes(tensors) and rule.dtype != torch.float32:
        metadata["dtype"] = str(rule.dtype).removeprefix("torch.")
    write_tensors(expand(path), tensors, FORMAT, metadata)


def load_rule(path: str | PathLike[str]) -> UpdateRule:
    """Read a rule from a file that `save_rule` wrote.

    Raises:
        FileNotFoundError: the file does not exist.
        TypeError: not a path.
        ValueError: damaged, truncated, or of another format; the message names the file.

    Examples:
        >>> save_rule(create_rule("lstm"), "my-rule.safetensors")
        >>> rule = load_rule("my-rule.safetensors")
    """
    tensors, metadata = _read(path)
    dtypes = _dtypes(tensors)
    try:
        if len(dtypes) > 1:
            raise ValueError(f"its weights have the dtypes {', '.join(dtypes)}")
        return build_saved_rule(
            create_rule,
            RULES,
            metadata["rule"],
            read_json(metadata["settings"]),
            tensors,
            dtypes[0] if dtypes else metadata.get("dtype", "float32"),
        )
    except MemoryError:
        raise
    except Exception as error:  # what a foreign file makes of a rule raises errors of many types
        raise ValueError(
            f"{path} holds no rule that this version can load: {one_line(error)}"
        ) from None


def load_card(name_or_path: str | PathLike[str]) -> dict[str, Any]:
    """Read the card of a weights file: tasks and settings of meta-training, measurements.

    Raises:
        TypeError: neither a name nor a path.
        ValueError: an unknown name, a missing file, or a damaged one.

    Examples:
        >>> load_card("digits-lstm")["task"]
        'digits-mlp'
    """
    _, metadata = _read(_find(name_or_path))
    try:
        return dict(read_json(metadata.get("card", "{}")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name_or_path} holds a damaged card: {one_line(error)}") from None


@overload
def list_pretrained(filter: str = ..., *, with_description: Literal[False] = ...) -> list[str]: ...
@overload
def list_pretrained(
    filter: str = ..., *, with_description: Literal[True]
) -> list[tuple[str, str]]: ...
def list_pretrained(
    filter: str = "*", *, with_description: bool = False
) -> list[str] | list[tuple[str, str]]:
    """List the pretrained rules that ship with the package.

    Args:
        filter: a pattern with shell wildcards, such as "digits-*".
        with_description: return (name, description) pairs.

    Examples:
        >>> list_pretrained()
        ['andrychowicz-lstm', 'digits-lstm', 'step-size-lstm']
    """
    names = matching_names(sorted(PRETRAINED), filter)
    if with_description:
        return [(name, PRETRAINED[name]) for name in names]
    return names


def from_pretrained(name_or_path: str | PathLike[str]) -> UpdateRule:
    """Load a bundled rule by name, or any rule by path.

    The rule is the caller's own: cast it, move it or train it. Optimizers that are given the name
    instead, `LearnedOptimizer(..., rule="digits-lstm")`, share one frozen copy.

    Raises:
        TypeError: neither a name nor a path.
        ValueError: an unknown name (the message suggests the nearest one), or a damaged file.

    Examples:
        >>> rule = from_pretrained("digits-lstm")
        >>> rule.default_lr
        0.03
        >>> optimizer = LearnedOptimizer(model.parameters(), rule=rule)
    """
    return load_rule(_find(name_or_path))


def shared_pretrained(name_or_path: str | PathLike[str]) -> UpdateRule:
    """Load a rule as `from_pretrained` does, but share one frozen copy of each bundled rule.

    The callers must not change it: a hundred optimizers hold one network.
    """
    path = _find(name_or_path)
    return _load_bundled(path) if path in _bundled().values() else load_rule(path)


def find_rule(name_or_path: str | PathLike[str]) -> UpdateRule:
    """Find a rule that is ready to use: bundled weights, a weights file, or a hand-designed rule.

    Raises:
        ValueError: an unknown name, a damaged file, or a network without weights.

    Examples:
        >>> optimizer = LearnedOptimizer(model.parameters(), rule="orthogonal-momentum")
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        check_rule(name_or_path, "an UpdateRule, a name or a path")
    name = os.fspath(name_or_path)
    if name in list_rules() and not names_weights(name):
        with real_tensors(), torch.device("cpu"), torch.random.fork_rng(devices=[]):
            rule = create_rule(name)
        if not list(rule.parameters()):
            return rule
        raise ValueError(
            f"rule {name!r} is a network without weights: give the name or the path of weights, "
            f"or create_rule({name!r}) to meta-train it"
        )
    return shared_pretrained(name_or_path)


@functools.cache
def _hand_made() -> tuple[str, ...]:
    """The rules without weights, which are ready by name."""
    return tuple(name for name in list_rules() if not list(create_rule(name).parameters()))


def bundled_name(digest: str) -> str | None:
    """The name of the bundled weights with this digest (`rule_digest`), or None."""
    return _bundled_digests().get(digest)


def names_weights(name_or_path: str) -> bool:
    """Whether a string is the name of bundled weights, or a path rather than a rule's name."""
    if name_or_path in _bundled() or os.sep in name_or_path or Path(name_or_path).suffix:
        return True
    return name_or_path not in list_rules() and expand(name_or_path).is_file()


def _find(name_or_path: str | PathLike[str]) -> Path:
    check_path("name_or_path", name_or_path, "a name or a path")
    text = os.fspath(name_or_path)
    if text in _bundled():
        return _bundled()[text]
    if expand(text).is_file():
        return expand(text)
    if expand(text).is_dir():
        raise ValueError(f"{text} is a folder: give the path of the weights file in it")
    if os.sep in text or text.endswith(".safetensors"):
        raise ValueError(f"there is no weights file {text}")
    if text in list_rules():
        raise ValueError(f"{text!r} is a rule, not pretrained weights: use create_rule({text!r})")
    raise ValueError(unknown("rule", text, [*_bundled(), *_hand_made()]))


@functools.cache
def _bundled() -> dict[str, Path]:
    folder = Path(str(resources.files("learned_opt"))) / "pretrained"
    return {name: folder / f"{name}.safetensors" for name in PRETRAINED}


@functools.cache
def _load_bundled(path: Path) -> UpdateRule:
    return load_rule(path).requires_grad_(False)


@functools.cache
def _bundled_digests() -> dict[str, str]:
    return {rule_digest(_load_bundled(path)): name for name, path in _bundled().items()}


def _dtypes(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the floating-point dtypes of some tensors."""
    floating = (value.dtype for value in tensors.values() if value.is_floating_point())
    return sorted({str(dtype).removeprefix("torch.") for dtype in floating})


def _read(path: str | PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors, metadata = read_tensors(expand(path), FORMAT, FIELDS)
    check_version(path, metadata, VERSION)
    return tensors, metadata


def rule_digest(rule: UpdateRule) -> str:
    """Name and hash of a rule: equal for equal class, settings and weights.

    Raises:
        ValueError: the rule is on the meta device, or was made under FakeTensorMode, so that its
            weights have no values.
    """
    if rule.device.type == "meta":
        raise ValueError(
            f"rule {rule_name(rule)} is on the meta device and has no weights: "
            'build it under torch.device("cpu")'
        )
    if any(isinstance(value, FakeTensor) for value in rule.parameters()):
        raise ValueError(
            f"rule {rule_name(rule)} was made under FakeTensorMode and has no weights: make it "
            "outside, or give the name or the path of weights"
        )
    settings = json.dumps(_comparable(rule.settings), sort_keys=True, default=str)
    digest = hashlib.sha256(settings.encode())
    with real_tensors():
        for key, value in rule.state_dict().items():
            digest.update(key.encode())
            digest.update(value.detach().cpu().double().numpy().tobytes())
    return f"{rule_name(rule)}:{digest.hexdigest()[:16]}"


def _comparable(value: Any) -> Any:
    """Settings in which equal numbers are written alike: 10.0 as 10."""
    if isinstance(value, Mapping):
        return {key: _comparable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_comparable(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
