"""Settings of a run of the benchmark, made of the arguments of its command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learned_opt.optimizer.learned_optimizer import DEFAULT_RULE
from learned_opt.registry import look_up
from meta_train.evaluation.benchmark.contestants.contestant import Contestant
from meta_train.evaluation.benchmark.contestants.registry import CONTESTANTS, find_contestant
from meta_train.evaluation.benchmark.contestants.user_function import from_function
from meta_train.evaluation.benchmark.games import GAMES
from meta_train.evaluation.benchmark.records import TUNING_SEED
from meta_train.evaluation.benchmark.tasks import TASKS

QUICK_TASKS = ("mnist1d-conv", "batch-norm", "char-gru", "autoencoder", "friedman", "pinn")
QUICK_OPTIMIZERS = ("adamw-cosine", "muon", "schedule-free")
QUICK_LENGTH = 0.25
"""In quick mode tasks have this share of their steps; a shorter game would not work."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of the benchmark.

    Attributes:
        tasks: names of tasks and games.
        optimizers: the optimizers.
        seeds: scored seeds.
        trials: settings to try in tuning.
        quick: few tasks, a quarter of the steps.
        sensitivity: whether to vary step sizes and told numbers of steps.
        length: training steps of a task as a multiple of its own number; games keep theirs.
        workers: number of processes.
        out: folder of the results; None makes a new one.
        again: optimizers to measure again.
    """

    tasks: tuple[str, ...]
    optimizers: tuple[Contestant, ...]
    seeds: int
    trials: int
    quick: bool
    sensitivity: bool
    length: float
    workers: int
    out: Path | None
    again: tuple[str, ...] = ()


def read_arguments(given: Mapping[str, Any]) -> BenchmarkConfig:
    """Make settings of the arguments of the command line.

    Args:
        given: values by name; None stands for the default.

    Raises:
        ValueError: an unknown name, a number out of range, or an optimizer of the user's own that
            cannot be imported.
    """
    quick = bool(given["quick"])
    wanted = given["tasks"] or (QUICK_TASKS if quick else [*TASKS, *GAMES])
    tasks = tuple(dict.fromkeys(wanted))  # each once
    for name in tasks:
        look_up("task", name, {**dict.fromkeys(TASKS), **dict.fromkeys(GAMES)})
    names = given["optimizers"] or [
        DEFAULT_RULE, *(QUICK_OPTIMIZERS if quick else CONTESTANTS)
    ]  # fmt: skip
    own = [from_function(path) for path in given["optimizer"] or ()]
    optimizers = {one.name: one for one in (*own, *map(find_contestant, names))}
    config = BenchmarkConfig(
        tasks=tasks,
        optimizers=tuple(optimizers.values()),
        seeds=(2 if quick else 5) if given["seeds"] is None else given["seeds"],
        trials=(5 if quick else 14) if given["trials"] is None else given["trials"],
        quick=quick,
        sensitivity=not quick and not given["no_sensitivity"],
        length=(QUICK_LENGTH if quick else 1.0) if given["length"] is None else given["length"],
        workers=os.cpu_count() or 1 if given["workers"] is None else given["workers"],
        out=given["out"],
        again=tuple(given["again"] or ()),
    )
    for name, value, least in (
        ("seeds", config.seeds, 1),
        ("trials", config.trials, 2),
        ("workers", config.workers, 1),
    ):
        if value < least:
            raise ValueError(f"--{name} must be at least {least}, got {value}")
    if not 0.1 <= config.length <= 1000:  # NaN, too
        raise ValueError(f"--length must be from 0.1 to 1000, got {config.length}")
    if config.seeds > TUNING_SEED:
        raise ValueError(f"--seeds must be at most {TUNING_SEED}, got {config.seeds}")
    for name in config.again:
        if name not in optimizers:  # its runs would be dropped and not made again
            raise ValueError(f"--again {name}: it is none of the optimizers of this call")
    return config
