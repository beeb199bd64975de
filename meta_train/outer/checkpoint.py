"""All of a meta-training in a checkpoint, and out of it again, by any number of processes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from learned_opt.rules import rule_name
from meta_train.runtime.checkpoint_files import read_newest, write_checkpoint
from meta_train.tasks.describe import describe, difference

if TYPE_CHECKING:
    from meta_train.outer.trainer import MetaTrainer

MAY_CHANGE = frozenset(
    {
        *("outer_steps", "max_minutes", "patience", "max_consecutive_skips"),
        *("checkpoint_every", "keep_checkpoints", "gates_every"),
    }
)
"""Settings that a resumed run may have otherwise."""

COUNTERS = ("outer_step", "seconds", "validated_at", "validations_without_best", "diverged")


def save_snapshot(trainer: MetaTrainer, folder: Path) -> None:
    """Write a checkpoint of what all processes hold.

    The rule and the initialisation, their average and the best of it, the meta-optimizer's state,
    every inner run with its optimizer state and the buffer of earlier ones, which task and batches
    come next (counters), and the step that TensorBoard goes on from. Random generators are not
    among it: every draw has one of its own, seeded by what it is for
    (`meta_train.runtime.seeding`).

    Raises:
        OSError: in every process, if the first one cannot write.
    """
    own, run_facts = trainer.groups.state_dict()
    # Each process's runs, brought to the first one's CPU; the rest is the same everywhere.
    parts = trainer.distributed.gather(({k: v.cpu() for k, v in own.items()}, run_facts))

    def write() -> None:
        tensors = {f"inner/{key}": value for part, _ in parts for key, value in part.items()}
        for part in ("meta_parameters", "best"):
            for key, value in getattr(trainer, part).state_dict().items():
                tensors[f"{part}/{key}"] = value
        meta_optimizer, descent_facts = trainer.meta_optimizer.state_dict()
        tensors.update({f"meta_optimizer/{key}": value for key, value in meta_optimizer.items()})
        facts = {
            **{name: getattr(trainer, name) for name in COUNTERS},
            "best_value": trainer.best_value if math.isfinite(trainer.best_value) else None,
            "meta_optimizer": descent_facts,
            "groups": {
                **run_facts,
                "runs": {key: value for _, one in parts for key, value in one["runs"].items()},
            },
            "made_with": made_with(trainer),
        }
        keep = trainer.settings.keep_checkpoints
        write_checkpoint(folder, trainer.outer_step, tensors, facts, keep)

    trainer.distributed.from_first(write)


def made_with(trainer: MetaTrainer) -> dict[str, Any]:
    """What must be the same when a run is resumed."""
    settings = {k: v for k, v in asdict(trainer.settings).items() if k not in MAY_CHANGE}
    rule = {"rule": rule_name(trainer.rule), "rule_settings": trainer.rule.settings}
    task = {"task": describe(trainer.groups.family), "task's tensors": trainer.groups.shapes()}
    described = getattr(trainer.validate, "described", None)
    judge = {"validation": None if described is None else described()}
    facts = {**settings, **rule, **task, **judge}
    # Through JSON, where a tuple becomes a list, as what it is compared with did.
    return dict(json.loads(json.dumps(facts)))


def load_newest(trainer: MetaTrainer, folder: Path) -> bool:
    """Go on from the newest checkpoint of a folder, which the first process reads for all.

    Returns:
        Whether there was one.

    Raises:
        ValueError: all are damaged, or of another rule, another task or other settings.
    """
    newest = trainer.distributed.from_first(lambda: read_newest(folder))
    if newest is None:
        return False
    path, tensors, facts = newest
    if differs := difference(facts["made_with"], made_with(trainer)):
        raise ValueError(f"{path} was made with {differs}: resume with the same task and settings")
    parts = _unflatten(tensors)
    for part in ("meta_parameters", "best"):
        getattr(trainer, part).load_state_dict(parts[part])
    trainer.meta_optimizer.load_state_dict(parts["meta_optimizer"], facts["meta_optimizer"])
    trainer.groups.load_state_dict(parts.get("inner", {}), facts["groups"])
    for name in COUNTERS:
        setattr(trainer, name, facts[name])
    trainer.best_value = math.inf if facts["best_value"] is None else facts["best_value"]
    return True


def _unflatten(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, key = name.split("/", 1)
        parts.setdefault(part, {})[key] = value
    return parts
