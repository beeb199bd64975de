"""Checkpoints of a meta-training: its state, and the facts that a resumed run must share."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from learned_opt.checks.setting_types import plain
from meta_train.runtime.checkpoint_files import (
    list_checkpoints,
    put_aside,
    read_newest,
    write_checkpoint,
)
from meta_train.runtime.checks import check_at_least
from meta_train.runtime.distributed import DistributedContext
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


class Checkpoints:
    """The checkpoints of a meta-training of one process or several, in a folder.

    A folder belongs to the run that has written or loaded its checkpoints.

    Args:
        folder: the folder.
        keep: number of checkpoints to keep; older ones are deleted.
        distributed: the processes; the first one reads and writes.

    Attributes:
        written_at: outer step of the last checkpoint that was written; -1 before the first.
    """

    def __init__(self, folder: Path, keep: int, distributed: DistributedContext) -> None:
        self.folder = folder
        self.keep = keep
        self.written_at = -1
        self._owned = False
        self._distributed = distributed

    def write(
        self, step: int, state: TrainingState, made_with: Callable[[], Mapping[str, Any]]
    ) -> None:
        """Write a checkpoint, and delete all but the newest `keep`. All processes must call it.

        Args:
            step: outer steps taken.
            state: the state of all processes, in the first one.
            made_with: gives the facts that a resumed run must share.

        Raises:
            OSError: the disk is full, for example; earlier checkpoints stay as they are.
            ValueError: the folder is that of another run; see `check_own`.
        """
        self.check_own()

        def write_first() -> None:
            facts = {**state.facts, "made_with": _comparable(made_with())}
            write_checkpoint(self.folder, step, state.tensors, facts, self.keep)

        self._distributed.from_first(write_first)
        self.written_at, self._owned = step, True

    @property
    def how_to_continue(self) -> str:
        """Says where the checkpoints are and how a script continues; empty if there are none."""
        if self.written_at < 0:
            return ""
        return (
            f"the checkpoint is in {self.folder}: trainer.resume() before trainer.train() continues"
        )

    def check_own(self) -> None:
        """Check, in every process, that the folder holds no checkpoint of another run.

        Raises:
            ValueError: it does. They would count as the newest: those of this run would be deleted
                as older ones, and a resume would go on with the other.
        """
        if self._owned:
            return
        found = self._distributed.from_first(lambda: list_checkpoints(self.folder))
        if found:
            raise ValueError(
                f"{found[-1]} is of another run: call resume() before train() to go on with that, "
                "or choose another folder"
            )

    def load_newest(
        self,
        made_with: Callable[[], Mapping[str, Any]],
        load: Callable[[TrainingState], str | None],
    ) -> bool:
        """Load the newest checkpoint that is not damaged, in every process.

        Args:
            made_with: gives the facts that the checkpoint must share.
            load: loads a state in this process; returns why it is damaged, if it is.

        Returns:
            Whether there is a checkpoint.

        Raises:
            ValueError: all checkpoints are damaged, or one was made with other facts.
        """
        damaged: dict[Path, str] = {}
        while True:
            found = self._distributed.from_first(
                lambda: load_checkpoint(self.folder, made_with(), damaged)
            )
            if found is None:
                return False
            path, state = found
            damages = self._distributed.gather(load(state))
            damage = self._distributed.from_first(partial(_first_damage, damages))
            if damage is None:
                self._distributed.from_first(partial(put_aside, damaged, path))
                self._owned = True
                return True
            damaged[path] = f"{path} is damaged: {damage}"


def _first_damage(damages: Sequence[str | None]) -> str | None:
    return next(filter(None, damages), None)


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
