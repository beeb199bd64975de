"""Checkpoints of a meta-training: its state, and the facts that a resumed run must share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from meta_train.runtime.checkpoint_files import read_newest, write_checkpoint
from meta_train.runtime.checks import check_at_least, plain
from meta_train.tasks.describe import difference


@dataclass(frozen=True)
class CheckpointSettings:
    """Settings of checkpoints.

    Raises:
        ValueError: names the setting and its value.
    """

    checkpoint_every: int = 100
    """Outer steps between checkpoints."""

    keep_checkpoints: int = 2
    """Number of checkpoints to keep; older ones are deleted."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_at_least(
            1, checkpoint_every=self.checkpoint_every, keep_checkpoints=self.keep_checkpoints
        )


class TrainingState(NamedTuple):
    """The whole state of a meta-training.

    Attributes:
        tensors: by name, such as "meta_parameters/rule.head.weight".
        facts: JSON-able.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def save_checkpoint(
    folder: Path, step: int, state: TrainingState, made_with: Mapping[str, Any], keep: int
) -> None:
    """Write a checkpoint, and delete all but the newest `keep`.

    Args:
        folder: folder of the checkpoints.
        step: outer steps taken.
        state: the state of all processes.
        made_with: JSON-able facts that a resumed run must share.
        keep: number of checkpoints to keep.

    Raises:
        OSError: the disk is full, for example; earlier checkpoints stay as they are.
    """
    facts = {**state.facts, "made_with": _comparable(made_with)}
    write_checkpoint(folder, step, state.tensors, facts, keep)


def load_checkpoint(
    folder: Path, made_with: Mapping[str, Any], damaged: dict[Path, str]
) -> tuple[Path, TrainingState] | None:
    """Read the newest checkpoint that is not damaged.

    Args:
        folder: folder of the checkpoints.
        made_with: must equal the facts of the checkpoint.
        damaged: checkpoints that are known to be damaged, and why; those found here are added.

    Returns:
        The file and the state; None without any checkpoint.

    Raises:
        ValueError: all checkpoints are damaged, or `made_with` differs.
    """
    newest = read_newest(folder, damaged)
    if newest is None:
        return None
    path, tensors, facts = newest
    if "made_with" not in facts:
        raise ValueError(f"{path} is no checkpoint of a meta-training")
    if differs := difference(facts["made_with"], _comparable(made_with)):
        raise ValueError(f"{path} was made with {differs}: resume with the same task and settings")
    return path, TrainingState(tensors, facts)


def _comparable(made_with: Any) -> Any:
    """The facts as JSON has them: plain numbers, lists, and the names of infinity and NaN."""
    made_with = plain(made_with)
    if isinstance(made_with, Mapping):
        return {str(key): _comparable(value) for key, value in made_with.items()}
    if isinstance(made_with, (list, tuple)):
        return [_comparable(value) for value in made_with]
    infinite = isinstance(made_with, float) and not math.isfinite(made_with)
    return str(made_with) if infinite else made_with


def join_parts(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """`{part: {name: tensor}}` as `{"part/name": tensor}`."""
    return {f"{part}/{name}": t for part, tensors in parts.items() for name, t in tensors.items()}


def split_parts(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The inverse of `join_parts`."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, key = name.partition("/")
        parts.setdefault(part, {})[key] = tensor
    return parts
