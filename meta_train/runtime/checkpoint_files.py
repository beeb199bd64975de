"""Checkpoint files: safetensors with a JSON header, written atomically."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from learned_opt.files import one_line, read_json, read_tensors, write_tensors

FORMAT = "meta_train.runtime.checkpoint_files"


def write_checkpoint(
    folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], keep: int = 2
) -> Path:
    """Write `step-<step>.safetensors`, then delete all but the newest `keep` files.

    Raises:
        OSError: the disk is full, for example; older checkpoints stay as they are.
        ValueError: a number in `facts` is not finite, so JSON cannot represent it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.safetensors"
    write_tensors(path, tensors, FORMAT, {"facts": json.dumps(facts, allow_nan=False)})
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or not a checkpoint; the message names it.
    """
    tensors, metadata = read_tensors(path, FORMAT, ["facts"])
    try:
        return tensors, dict(read_json(metadata["facts"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {one_line(error)}") from None


def read_newest(folder: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
    """Read the newest intact checkpoint, and tidy the folder.

    Writing is atomic, but disks fail: a damaged checkpoint is skipped with a warning, and renamed
    to `*.damaged` so that it no longer counts as one of the newest. Partial files of killed
    processes are deleted.

    Returns:
        The path, tensors and facts; None if there is no checkpoint.

    Raises:
        ValueError: all checkpoints are damaged; the message names the newest.
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
                f"{damage}; renamed it to {aside.name}, continuing from {path.name}", stacklevel=2
            )
        return path, tensors, facts
    if damages:
        raise next(iter(damages.values()))
    return None
