"""Reads and writes files of learned initialisations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from typing import Any

from torch import Tensor

from learned_opt.adaptation.bundled import find_initialization
from learned_opt.adaptation.initialization import Initialization
from learned_opt.checks.arguments import shown
from learned_opt.files import (
    check_version,
    expand,
    one_line,
    read_json,
    read_tensors,
    write_tensors,
)
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.per_tensor_rates import ANY_RULES, any_rule_name, create_any_rule
from learned_opt.rules.saved_rules import build_saved_rule

FORMAT = "learned_opt.adaptation.initialization"
VERSION = 1
FIELDS = ("version", "names", "facts", "card")
"""The header of a file."""


def save_initialization(initialization: Initialization, path: str | PathLike[str]) -> None:
    """Write an initialisation and its rule to a file, completely or not at all.

    Args:
        initialization: the initialisation.
        path: the file; an existing one is replaced.

    Raises:
        ValueError: the rule's class is not registered, so the file could not be loaded, or JSON
            cannot hold the card or the rule's settings.
        OSError: the disk is full or the folder cannot be written; an old file is unchanged.

    Examples:
        >>> save_initialization(Initialization.of(model, lr=0.4), "start.safetensors")
    """
    if not isinstance(initialization, Initialization):
        raise ValueError(
            f"initialization must be an Initialization, got {shown(initialization)}; "
            "Initialization.of(module) makes one of a module"
        )
    tensors = {f"parameters/{k}": v for k, v in initialization.parameters.items()}
    tensors.update({f"buffers/{k}": v for k, v in initialization.buffers.items()})
    facts: dict[str, Any] = {"lr": initialization.lr, "steps": initialization.steps}
    if initialization.only is not None:
        facts["only"] = list(initialization.only)
    if initialization.proximal is not None:
        facts["proximal"] = initialization.proximal
    rule = initialization.rule
    if rule is not None:
        name = any_rule_name(rule)
        if name is None:
            raise ValueError(f"cannot save rule {type(rule).__name__}: its class is not registered")
        facts.update(rule=name, settings=rule.settings, dtype=str(rule.dtype).split(".")[1])
        tensors.update({f"rule/{k}": v for k, v in rule.state_dict().items()})
    metadata = {
        "version": str(VERSION),
        "names": json.dumps(list(initialization.parameters)),  # a file sorts them
    }
    for key, value in (("facts", facts), ("card", dict(initialization.card))):
        try:
            metadata[key] = json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the {key} of the initialisation cannot be saved: {error}") from None
    write_tensors(expand(path), tensors, FORMAT, metadata)


def load_initialization(name_or_path: str | PathLike[str]) -> Initialization:
    """Read a bundled initialisation, or a file that `save_initialization` wrote, onto the CPU.

    Args:
        name_or_path: a name from `list_initializations()`, or a path.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: an unknown name, or a file that is damaged, truncated, or of another format;
            the message names it.

    Examples:
        >>> characters = load_initialization("omniglot-maml")
        >>> characters.lr, characters.steps
        (0.4, 3)
        >>> save_initialization(Initialization.of(model, lr=0.4), "start.safetensors")
        >>> initialization = load_initialization("start.safetensors")
        >>> adapted = adapt(model, (inputs, targets), initialization=initialization)
    """
    path = find_initialization(name_or_path)
    tensors, metadata = read_tensors(path, FORMAT, FIELDS)
    check_version(path, metadata, VERSION)
    parts: dict[str, dict[str, Tensor]] = {"parameters": {}, "buffers": {}, "rule": {}}
    try:
        for key, value in tensors.items():
            part, name = key.split("/", 1)
            parts[part][name] = value
        facts, names = read_json(metadata["facts"]), read_json(metadata["names"])
        if sorted(names) != sorted(parts["parameters"]):
            raise ValueError("its parameters are not those that its header names")
        return Initialization(
            parameters={name: parts["parameters"][name] for name in names},
            buffers=parts["buffers"],
            rule=_rule(facts, parts["rule"]),
            lr=facts["lr"],
            steps=facts["steps"],
            only=_only(facts),
            proximal=facts.get("proximal"),
            card=dict(read_json(metadata["card"])),
        )
    except MemoryError:
        raise
    except Exception as error:  # what a foreign file makes of a rule raises errors of many types
        raise ValueError(
            f"{path} holds no initialisation that this version can load: {one_line(error)}"
        ) from None


def _only(facts: Mapping[str, Any]) -> tuple[str, ...] | None:
    if "only" not in facts:
        return None
    names = facts["only"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"only must be a list of names or prefixes, got {str(names)[:80]}")
    return tuple(names)


def _rule(facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> UpdateRule | None:
    if "rule" not in facts:
        if weights:
            raise ValueError("it holds weights of a rule, but names no rule")
        return None
    return build_saved_rule(
        create_any_rule, ANY_RULES, facts["rule"], facts["settings"], weights, facts["dtype"]
    )
