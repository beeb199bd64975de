"""Checkpoint files: safetensors with a JSON header, written atomically."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
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


def read_newest(
    folder: Path, damaged: dict[Path, str]
) -> tuple[Path, dict[str, Tensor], dict[str, Any]] | None:
    """Read the newest intact checkpoint. Partial files of killed processes are deleted.

    Args:
        folder: folder of the checkpoints.
        damaged: checkpoints that are known to be damaged, and why; those found here are added.

    Returns:
        The path, tensors and facts; None if there is no checkpoint.

    Raises:
        ValueError: all checkpoints are damaged; the message names the newest.
    """
    for leftover in folder.glob(".step-*.safetensors.*"):
        leftover.unlink(missing_ok=True)
    found = list_checkpoints(folder)
    for path in reversed(found):
        if path in damaged:
            continue
        try:
            tensors, facts = read_checkpoint(path)
        except ValueError as error:
            damaged[path] = str(error)
            continue
        return path, tensors, facts
    if found:
        raise ValueError(damaged[found[-1]])
    return None


def put_aside(damaged: Mapping[Path, str], taken: Path) -> None:
    """Rename damaged checkpoints to `*.damaged`, so that they no longer count as the newest.

    Args:
        damaged: the checkpoints, and a sentence about each for a warning.
        taken: the checkpoint that is taken instead.
    """
    for path, why in damaged.items():
        aside = path.replace(path.with_name(f"{path.name}.damaged"))
        warnings.warn(
            f"{why}; renamed it to {aside.name}, continuing from {taken.name}", stacklevel=2
        )
