"""Checkpoints of meta-training: one safetensors file with a JSON header, whole or absent."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from learned_opt.files import read_tensors, write_tensors

FORMAT = "meta_train.runtime.checkpoint_files"


def write_checkpoint(
    folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], keep: int = 2
) -> Path:
    """Write `step-<step>.safetensors`, then drop all but the newest `keep` files.

    Raises:
        OSError: the disk is full, say; older checkpoints are untouched.
        ValueError: a number among the facts is not finite, which JSON cannot say.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.safetensors"
    write_tensors(path, tensors, FORMAT, {"facts": json.dumps(facts, allow_nan=False)})
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: damaged, truncated, or not a checkpoint; the message names the file.
    """
    tensors, metadata = read_tensors(path, FORMAT)
    return tensors, json.loads(metadata["facts"])


def read_newest(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
    """Read the newest checkpoint that is whole, and put the folder in order.

    Writing is atomic, but disks fail: a damaged checkpoint is passed over with a warning, and
    renamed `*.damaged`, so that it does not count among the newest. What a killed process left
    half-written is removed.

    Returns:
        Its path, tensors and facts; None if there is no checkpoint at all.

    Raises:
        ValueError: there are checkpoints, and all are damaged; the message names the newest.
    """
    for leftover in folder.glob(".step-*.safetensors.*"):
        leftover.unlink(missing_ok=True)
    found = list_checkpoints(folder)
    damages: dict[Path, ValueError] = {}
    for path in reversed(found):
        try:
            tensors, facts = read_checkpoint(path)
        except ValueError as error:
            damages[path] = error
            continue
        for damaged, damage in damages.items():
            aside = damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))
            warnings.warn(
                f"{damage}; it is now {aside.name}, going on from {path.name}", stacklevel=2
            )
        return path, tensors, facts
    if damages:
        raise next(iter(damages.values()))
    return None
