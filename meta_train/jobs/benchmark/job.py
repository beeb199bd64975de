"""The benchmark's command: `python -m meta_train benchmark`."""

from __future__ import annotations

import os
import sys
import time
from argparse import HelpFormatter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from learned_opt.files import write_atomically
from learned_opt.optimizer.learned_optimizer import DEFAULT_RULE
from learned_opt.registry import look_up
from learned_opt.rules import list_rules
from learned_opt.weights import find_rule, list_pretrained, rule_digest
from meta_train.evaluation.benchmark.contestant import Contestant
from meta_train.evaluation.benchmark.contestants import (
    CONTESTANTS,
    find_contestant,
    missing_package,
)
from meta_train.evaluation.benchmark.games import GAMES, Game, Played
from meta_train.evaluation.benchmark.picture import draw
from meta_train.evaluation.benchmark.plan import Plan
from meta_train.evaluation.benchmark.records import TUNING_SEED, Failed, Records, Result, RunKey
from meta_train.evaluation.benchmark.report import render
from meta_train.evaluation.benchmark.runner import run_all
from meta_train.evaluation.benchmark.short_report import render_short
from meta_train.evaluation.benchmark.tasks import TASKS, VERSION
from meta_train.evaluation.benchmark.user_function import from_function
from meta_train.evaluation.benchmark.workload import BenchmarkTask
from meta_train.jobs.command import OneLineParser, exit_status
from meta_train.jobs.run_folders import claim_folder, locked

PROGRAM = "python -m meta_train benchmark"
DESCRIPTION = """Train many small tasks with this package's optimizer and with others, each at its
default and tuned, and compare. Writes benchmark.json, benchmark.md and benchmark.png into a folder.
A call with the same --out continues what is there. All of it takes many hours of a core; --quick
takes minutes."""
RECORD, TABLE, PICTURE = "benchmark.json", "benchmark.md", "benchmark.png"

QUICK_TASKS = ("mnist1d-conv", "batch-norm", "char-gru", "autoencoder", "friedman", "pinn")
QUICK_OPTIMIZERS = ("adamw-cosine", "muon", "schedule-free")
QUICK_STEPS = 4
"""In quick mode tasks have this part of their steps; a shorter game would not work."""


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
    workers: int
    out: Path | None
    again: tuple[str, ...] = ()


def build_parser() -> OneLineParser:
    """The parser of the benchmark's arguments.

    There is no `--config`: `--optimizer` imports a module, and no file may do so.
    """
    parser = OneLineParser(
        prog=PROGRAM,
        usage="%(prog)s [--quick] [--tasks NAME ...]\n"
        "    [--optimizers NAME ...] [--optimizer MODULE:FUNCTION ...] [--out FOLDER]",
        description=DESCRIPTION,
        formatter_class=HelpFormatter,  # the texts name the defaults: here None stands for them
    )
    own = ", ".join(list_pretrained())
    add = parser.add_argument
    add(
        "--tasks",
        nargs="+",
        metavar="NAME",
        help=f"tasks: {', '.join([*TASKS, *GAMES])} (default: all, with --quick six)",
    )
    add(
        "--optimizers",
        nargs="+",
        metavar="NAME",
        help=f"optimizers: {DEFAULT_RULE} (what LearnedOptimizer takes by default), "
        f"{', '.join(CONTESTANTS)}; also any rule of this package, such as {own} "
        f"(default: those named first, with --quick {DEFAULT_RULE}, {', '.join(QUICK_OPTIMIZERS)})",
    )
    add(
        "--optimizer",
        nargs="+",
        metavar="MODULE:FUNCTION",
        help="optimizers of your own, besides the others: the function takes the model and the "
        "number of steps, and returns an optimizer, or an optimizer and a scheduler; it must fit "
        "the model of the first task",
    )
    add("--quick", action="store_true", help="six tasks, a quarter of the steps, two seeds")
    add(
        "--no-sensitivity",
        action="store_true",
        help="do not vary step sizes and the number of steps that is told (--quick never does)",
    )
    add("--seeds", type=int, help="scored seeds (default: 5, with --quick 2)")
    add("--trials", type=int, help="settings to try in tuning (default: 14, with --quick 5)")
    add("--workers", type=int, help="processes of one thread each (default: one a core)")
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="folder of the results; runs recorded there are not repeated (default: a new one)",
    )
    add(
        "--again",
        nargs="+",
        metavar="NAME",
        help="optimizers to measure again: their runs on all tasks are dropped",
    )
    return parser


def parse(arguments: list[str]) -> BenchmarkConfig:
    """The settings of these arguments; exits with status 2 and one line on a bad value."""
    parser = build_parser()
    given = parser.parse_args(arguments)
    try:
        return _config(vars(given))
    except ValueError as error:
        parser.error(str(error))


def _config(given: dict[str, Any]) -> BenchmarkConfig:
    quick = bool(given["quick"])
    tasks = tuple(given["tasks"] or (QUICK_TASKS if quick else [*TASKS, *GAMES]))
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
    if config.seeds > TUNING_SEED:
        raise ValueError(f"--seeds must be at most {TUNING_SEED}, got {config.seeds}")
    for name in config.again:
        if name not in optimizers:  # its runs would be dropped and not made again
            raise ValueError(f"--again {name}: it is none of the optimizers of this call")
    return config


def make_plan(config: BenchmarkConfig) -> Plan:
    """The runs of these settings."""
    tasks: list[BenchmarkTask] = [TASKS[name] for name in config.tasks if name in TASKS]
    games: list[Game] = [GAMES[name] for name in config.tasks if name in GAMES]
    if config.quick:
        tasks = [replace(task, steps=task.steps // QUICK_STEPS) for task in tasks]
    return Plan(
        tasks=tasks,
        games=games,
        contestants=[one for one in config.optimizers if _is_installed(one)],
        seeds=config.seeds,
        trials=config.trials,
        sensitivity=config.sensitivity,
    )


def _is_installed(contestant: Contestant) -> bool:
    """Whether an optimizer can be built; if not, say what is missing."""
    missing = missing_package(contestant)
    if missing is not None:
        _say(
            f"{contestant.title} is left out: {missing} is not installed "
            "(python -m pip install 'learned-opt[benchmark]')"
        )
    return missing is None


def _check_own(plan: Plan) -> None:
    """Build each optimizer of the user's own for the first task: it may not fit other tasks.

    Raises:
        ValueError: one cannot be built. In a run that would be a result, which is kept.
    """
    for one in plan.contestants:
        if ":" in one.name and plan.tasks:
            first = plan.tasks[0]
            try:
                one.build(first.make(), one.default, first.steps)
            except ValueError as error:
                raise ValueError(f"on task {first.name}, {error}") from error


def run(config: BenchmarkConfig) -> Path:
    """Run the benchmark and write its tables and its picture.

    Returns:
        The folder of the results.

    Raises:
        ValueError: the folder holds results of other settings, or an optimizer of the user's own
            cannot be built for the first task.
        OSError: a file cannot be written, or another job uses the folder.
    """
    plan = make_plan(config)
    _check_own(plan)
    folder = claim_folder("benchmark") if config.out is None else config.out.expanduser()
    with locked(folder):
        again = {one.name for one in plan.contestants} & set(config.again)
        records = Records(folder / RECORD, _facts(plan), again)
        _say(f"at most {plan.count()} runs, {config.workers} at a time; results in {folder}")
        try:
            run_all(plan, records, workers=config.workers, on_run=_Progress(plan, records))
        finally:  # Also after Ctrl-C: tables and picture of what there is.
            write_atomically(folder / TABLE, render(plan, records).encode())
            draw(folder / PICTURE, plan, records)
    print(render_short(plan, records))
    print(f"All tables:\n  {folder / TABLE}")
    if (folder / PICTURE).exists():
        print(f"Picture:\n  {folder / PICTURE}")
    return folder


def _facts(plan: Plan) -> dict[str, Any]:
    """What must be equal in all runs of a record."""
    every = {*list_pretrained(), *list_rules()}
    rules = [one.name for one in plan.contestants if one.name in every]
    return {
        "tasks": {"version": VERSION},
        "steps": plan.steps(),
        "batch": {task.name: task.batch for task in plan.tasks},
        "weights": {name: rule_digest(find_rule(name)) for name in rules},
    }


class _Progress:
    """Says on stderr what has ended, and how long it took."""

    def __init__(self, plan: Plan, records: Records) -> None:
        self._wanted = plan.count()
        self._records = records
        self._begun: dict[RunKey, float] = {}

    def __call__(self, key: RunKey, result: Result | None) -> None:
        if result is None:
            self._begun[key] = time.monotonic()
            return
        took = time.monotonic() - self._begun.pop(key)
        setting = ", ".join(f"{name} {value:.3g}" for name, value in key.setting)
        done = len(self._records.items())
        _say(
            f"[{done}/{self._wanted}] {key.task}, {key.optimizer} ({setting}), "
            f"seed {key.seed}: {_outcome(result)}, {took:.0f} s"
        )


def _outcome(result: Result) -> str:
    if isinstance(result, Failed):
        return f"failed: {result.message}"
    if isinstance(result, Played):
        return f"{result.figure:.3g}, {'works' if result.works else 'does not work'}"
    return "diverged" if result.diverged else f"loss {result.losses[-1]:.4g}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Run the command line.

    Args:
        arguments: the arguments after `benchmark`.

    Returns:
        The exit status, as of `meta_train.jobs.cli.main`.
    """
    config = parse(arguments)
    try:
        run(config)
    except KeyboardInterrupt:
        _say("\nstopped; the same command with --out FOLDER continues")
        return 130
    except (ValueError, OSError) as error:
        status, text = exit_status(error, PROGRAM)
        _say(text)
        return status
    return 0
