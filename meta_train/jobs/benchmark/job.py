"""Runs the benchmark, and writes its record, its tables and its picture."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from learned_opt.files import write_atomically
from learned_opt.rules import list_rules
from learned_opt.weights import find_rule, list_pretrained, rule_digest
from meta_train.evaluation.benchmark.contestants.contestant import Contestant
from meta_train.evaluation.benchmark.contestants.registry import missing_package
from meta_train.evaluation.benchmark.games import GAMES, Game, Played
from meta_train.evaluation.benchmark.plan import Plan
from meta_train.evaluation.benchmark.records import Failed, Records, Result, RunKey
from meta_train.evaluation.benchmark.reports.full_report import render
from meta_train.evaluation.benchmark.reports.picture import draw
from meta_train.evaluation.benchmark.reports.short_report import render_short
from meta_train.evaluation.benchmark.runner import run_all
from meta_train.evaluation.benchmark.tasks import TASKS, VERSION
from meta_train.evaluation.benchmark.workload import BenchmarkTask
from meta_train.jobs.benchmark.settings import BenchmarkConfig
from meta_train.jobs.run_folders import claim_folder, locked
from meta_train.runtime.signals import Interrupted

RECORD, TABLE, PICTURE = "benchmark.json", "benchmark.md", "benchmark.png"


def make_plan(config: BenchmarkConfig) -> Plan:
    """The runs of these settings."""
    tasks: list[BenchmarkTask] = [TASKS[name] for name in config.tasks if name in TASKS]
    games: list[Game] = [GAMES[name] for name in config.tasks if name in GAMES]
    tasks = [replace(task, steps=round(task.steps * config.length)) for task in tasks]
    return Plan(
        tasks=tasks,
        games=games,
        contestants=[one for one in config.optimizers if _is_installed(one)],
        seeds=config.seeds,
        trials=config.trials,
        sensitivity=config.sensitivity,
    )


def _is_installed(contestant: Contestant) -> bool:
    """Whether an optimizer can be built; if not, report the missing package."""
    missing = missing_package(contestant)
    if missing is not None:
        say(
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
        Interrupted: Ctrl-C; what was measured is recorded.
    """
    plan = make_plan(config)
    _check_own(plan)
    folder = claim_folder("benchmark") if config.out is None else config.out.expanduser()
    with locked(folder):
        again = {one.name for one in plan.contestants} & set(config.again)
        records = Records(folder / RECORD, _facts(plan), again)
        say(f"at most {plan.count()} runs, {config.workers} at a time; results in {folder}")
        try:
            run_all(plan, records, workers=config.workers, on_run=_Progress(plan, records))
        except KeyboardInterrupt:
            again_from = shlex.quote(str(folder))
            raise Interrupted(
                f"stopped; the same command with --out {again_from} continues"
            ) from None
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
    """Reports on stderr the runs that have ended, and their durations."""

    def __init__(self, plan: Plan, records: Records) -> None:
        self._plan = plan
        self._wanted = plan.count()
        self._records = records
        self._begun: dict[RunKey, float] = {}

    def __call__(self, key: RunKey, result: Result | None) -> None:
        if result is None:
            self._begun[key] = time.monotonic()
            return
        took = time.monotonic() - self._begun.pop(key)
        setting = ", ".join(f"{name} {value:.3g}" for name, value in key.setting)
        done = self._plan.done(self._records)
        say(
            f"[{done}/{self._wanted}] {key.task}, {key.optimizer} ({setting}), "
            f"seed {key.seed}: {_outcome(result)}, {took:.0f} s"
        )


def _outcome(result: Result) -> str:
    if isinstance(result, Failed):
        return f"failed: {result.message}"
    if isinstance(result, Played):
        return f"{result.figure:.3g}, {'works' if result.works else 'does not work'}"
    return "diverged" if result.diverged else f"loss {result.losses[-1]:.4g}"


def say(text: str) -> None:
    """Print a line to stderr at once."""
    print(text, file=sys.stderr, flush=True)
