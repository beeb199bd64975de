"""Weights of learned rules in and out: safetensors, a JSON header, never pickle.

A file holds the rule's weights, and in its header the rule's registered name, its settings, and a
card: what it was meta-trained on and how well it did. Pretrained rules ship inside the package.
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
from typing import Any

import torch
from torch import Tensor

from learned_opt.files import check_version, read_tensors, write_tensors
from learned_opt.registry import unknown
from learned_opt.rules import create_rule, list_rules, rule_name
from learned_opt.rules.base import UpdateRule

FORMAT = "learned_opt.rule"
VERSION = 1


def save_rule(
    rule: UpdateRule, path: str | PathLike[str], card: Mapping[str, Any] | None = None
) -> None:
    """Write a rule to a file, whole or not at all.

    Args:
        rule: of a registered class.
        path: where to; an existing file is replaced.
        card: JSON-able facts: what it was trained on, what was measured.

    Raises:
        ValueError: the rule's class is not registered, so nobody could load the file.
        OSError: the disk is full or the folder cannot be written; the old file is as it was.
    """
    name = rule_name(rule)
    if name not in list_rules():
        raise ValueError(f"cannot save rule {name}: its class is not registered")
    metadata = {
        "version": str(VERSION),
        "rule": name,
        "settings": json.dumps(rule.settings),
        "card": json.dumps(dict(card or {})),
    }
    write_tensors(Path(path), rule.state_dict(), FORMAT, metadata)


def load_rule(path: str | PathLike[str]) -> UpdateRule:
    """Read a rule from a file that `save_rule` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: damaged, truncated, or not a file of ours; the message names it.
    """
    tensors, metadata = _read(Path(path))
    try:
        name, settings = metadata["rule"], json.loads(metadata["settings"])
        # Whatever torch.device context the caller is in, and without touching his random numbers.
        # Ordinary tensors even under inference_mode: a bundled rule is shared with all who train.
        with (
            torch.inference_mode(False),
            torch.device("cpu"),
            torch.random.fork_rng(devices=[]),
        ):
            rule = create_rule(name, **settings)
            floating = [value.dtype for value in tensors.values() if value.is_floating_point()]
            rule.to(floating[0] if floating else torch.float32)
            rule.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not hold a rule that this version knows: {reason}") from None
    return rule.eval()


def load_card(name_or_path: str | PathLike[str]) -> dict[str, Any]:
    """Read what a weights file says of itself: training, measurements, limits."""
    _, metadata = _read(_find(name_or_path))
    try:
        return dict(json.loads(metadata.get("card", "{}")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name_or_path} holds a damaged card: {error}") from None


def list_pretrained() -> list[str]:
    """Names of the rules that ship with the package."""
    return sorted(_bundled())


def from_pretrained(name_or_path: str | PathLike[str]) -> UpdateRule:
    """Load a bundled rule by name, or any rule by path.

    A bundled rule is read once: every caller gets the same module, so that a hundred optimizers
    hold one network. Deep-copy it before you train it further.

    Raises:
        ValueError: no such name (the nearest one is named), or a damaged file.
    """
    path = _find(name_or_path)
    return _load_bundled(path) if path in _bundled().values() else load_rule(path)


def names_weights(name_or_path: str) -> bool:
    """Whether a text is the name of bundled weights, or looks like a path."""
    if name_or_path in _bundled() or os.sep in name_or_path or Path(name_or_path).suffix:
        return True
    return name_or_path not in list_rules() and Path(name_or_path).is_file()


def _find(name_or_path: str | PathLike[str]) -> Path:
    text = os.fspath(name_or_path)
    if text in _bundled():
        return _bundled()[text]
    if Path(text).is_file():
        return Path(text)
    if os.sep in text or text.endswith(".safetensors"):
        raise ValueError(f"there is no weights file {text}")
    if text in list_rules():
        raise ValueError(f"{text!r} is a rule, not pretrained weights: use create_rule({text!r})")
    raise ValueError(unknown("pretrained rule", text, _bundled()))


@functools.cache
def _bundled() -> dict[str, Path]:
    folder = Path(str(resources.files("learned_opt"))) / "pretrained"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


@functools.cache
def _load_bundled(path: Path) -> UpdateRule:
    return load_rule(path).requires_grad_(False)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors, metadata = read_tensors(path, FORMAT)
    check_version(path, metadata, VERSION)
    return tensors, metadata


def rule_digest(rule: UpdateRule) -> str:
    """Name and fingerprint of a rule: equal for equal class, settings and weights.

    Raises:
        ValueError: the rule is on the meta device, where weights have no values.
    """
    if rule.device.type == "meta":
        raise ValueError(
            f"rule {rule_name(rule)} is on the meta device and has no weights: "
            'build it under torch.device("cpu")'
        )
    digest = hashlib.sha256(json.dumps(rule.settings, sort_keys=True, default=str).encode())
    for key, value in rule.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().double().cpu().numpy().tobytes())
    return f"{rule_name(rule)}:{digest.hexdigest()[:16]}"
