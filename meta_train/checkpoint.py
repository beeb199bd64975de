"""Checkpoints of meta-training: one safetensors file with a JSON header, whole or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from learned_opt.files import read_tensors, write_tensors

FORMAT = "meta_train.checkpoint"


def write_checkpoint(
    folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], keep: int = 2
) -> Path:
    """Write `step-<step>.safetensors`, then drop all but the newest `keep` files.

    Raises:
        OSError: the disk is full, say; older checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.safetensors"
    write_tensors(path, tensors, FORMAT, {"facts": json.dumps(facts)})
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
