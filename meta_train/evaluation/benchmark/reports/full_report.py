"""The tables of a benchmark, in Markdown."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from meta_train.evaluation.benchmark.contestants.registry import CONTESTANTS, find_contestant
from meta_train.evaluation.benchmark.games import GAMES, Played
from meta_train.evaluation.benchmark.plan import Entry, Plan
from meta_train.evaluation.benchmark.records import TUNING_SEED, Records
from meta_train.evaluation.benchmark.reports.notes import notes
from meta_train.evaluation.benchmark.reports.scores import (
    Summary,
    TaskScore,
    all_scores,
    losses_below,
    reference_scores,
    sensitivities,
    summaries,
)
from meta_train.evaluation.benchmark.tasks import TASKS
from meta_train.evaluation.benchmark.training import Trained
from meta_train.evaluation.benchmark.workload import BenchmarkTask
from meta_train.evaluation.tables import markdown_table

NOTHING = "-"
"""The cell of a run that was not made."""


def render(plan: Plan, records: Records) -> str:
    """All tables, for a file; they are wider than a terminal."""
    parts = [
        ("Over tasks, beside AdamW tuned for each task", summary_table(plan, records)),
        ("The first optimizer beside each other one", pairs_table(plan, records)),
        ("Final training loss", loss_table(plan, records)),
        ("Test figure: error rate or loss, lower is better", error_table(plan, records)),
        (
            "Steps and CPU time to the final training loss of tuned AdamW",
            steps_table(plan, records),
        ),
        ("Sensitivity: mean log ratio of the final loss", sensitivity_table(plan, records)),
        ("Games", games_table(plan, records)),
    ]
    text = [f"## {title}\n\n{table}" for title, table in parts if table]
    return "\n\n".join([*text, *notes(plan, records)]) + "\n"


def summary_table(plan: Plan, records: Records) -> str:
    """A row for each optimizer, the lowest mean log ratio first."""
    found = summaries(all_scores(plan, records))
    ordered = sorted(found, key=lambda entry: found[entry].log_ratio)
    header = [
        "optimizer", "lower loss", "mean log ratio", "speed-up, steps", "speed-up, time",
        "AlgoPerf, steps", "AlgoPerf, time", "test no worse", "diverged", "state, bytes",
    ]  # fmt: skip
    return _table(header, [_summary_row(entry, found[entry]) for entry in ordered])


def _summary_row(entry: Entry, one: Summary) -> list[str]:
    return [
        entry.title,
        f"{one.wins} of {one.tasks}",
        f"{one.log_ratio:+.3f}",
        f"{one.speed_up:.2f}",
        f"{one.time_speed_up:.2f}",
        f"{one.algoperf:.2f}",
        f"{one.time_algoperf:.2f}",
        f"{one.tests} of {one.tasks}",
        str(one.diverged),
        NOTHING if math.isnan(one.state) else f"{one.state:.1f}",
    ]


def pairs_table(plan: Plan, records: Records) -> str:
    """The first optimizer's final training losses beside those of each other one.

    Mean log ratios have their standard errors over tasks.
    """
    scores = all_scores(plan, records)
    if not scores:
        return ""
    first, *others = scores
    rows = []
    for other in others:
        found = losses_below(scores[first], scores[other])
        if found.tasks:
            error = "" if math.isnan(found.error) else f" ± {found.error:.3f}"
            lower = f"{found.lower} of {found.tasks}"
            rows.append([other.title, lower, f"{found.log_ratio:+.3f}{error}"])
    return _table([f"{first.title} beside", "lower loss", "mean log ratio"], rows)


def loss_table(plan: Plan, records: Records) -> str:
    """Final training loss: geometric mean and standard deviation over seeds.

    A run that failed counts as diverged; the notes below the tables name it.
    """

    def cell(one: TaskScore, task: BenchmarkTask, seeds: int) -> str:
        if not math.isfinite(one.final):
            return f"{one.diverged} diverged"
        fewer = "" if len(one.finals) == seeds else f" ({len(one.finals)})"
        spread = f" ± {one.spread:.1g}" if len(one.finals) > 1 else ""
        return f"{one.final:.3g}{spread}{fewer}"

    return _by_task(plan, records, cell)


def error_table(plan: Plan, records: Records) -> str:
    """Mean test figure by task and optimizer."""
    return _by_task(plan, records, lambda one, task, seeds: f"{one.error:.3g}")


def steps_table(plan: Plan, records: Records) -> str:
    """Steps, and CPU seconds, to the final loss of tuned AdamW by task and optimizer."""
    reference = reference_scores(all_scores(plan, records))

    def cell(one: TaskScore, task: BenchmarkTask, seeds: int) -> str:
        if task.name not in reference:
            return NOTHING
        share = one.share_until(reference[task.name].final)
        if not math.isfinite(share):
            return f"> {task.steps}"
        return f"{share * task.steps:.0f} ({share * one.seconds:.2g} s)"

    return _by_task(plan, records, cell) if reference else ""


def _by_task(
    plan: Plan, records: Records, cell: Callable[[TaskScore, BenchmarkTask, int], str]
) -> str:
    scores = all_scores(plan, records)
    rows = []
    for task in plan.tasks:
        known = [by_task.get(task.name) for by_task in scores.values()]
        if any(known):
            size = _parameters(records, task)
            cells = [NOTHING if one is None else cell(one, task, plan.seeds) for one in known]
            rows.append([task.title, size, *cells])
    return _table(["task", "parameters", *(entry.title for entry in scores)], rows)


def _parameters(records: Records, task: BenchmarkTask) -> str:
    for key, result in records.items():
        if key.task == task.name and isinstance(result, Trained):
            return f"{result.parameters:,}"
    return NOTHING


def sensitivity_table(plan: Plan, records: Records) -> str:
    """How much worse an optimizer gets at other step sizes and told numbers of steps."""
    entries = [entry for entry in plan.entries() if entry.tuned == bool(entry.contestant.trials)]
    found = {entry: sensitivities(plan, records, entry) for entry in entries}
    columns = list(dict.fromkeys(what for values in found.values() for what in values))
    rows = [
        [entry.title, *(f"{values[c]:+.3f}" if c in values else NOTHING for c in columns)]
        for entry, values in found.items()
        if values
    ]
    return _table(["optimizer", *columns], rows)


def games_table(plan: Plan, records: Records) -> str:
    """Figure of each game, and in how many runs it works; every optimizer at its default."""
    header = ["optimizer", *(f"{game.title}: {game.figure}" for game in plan.games)]
    return _table(header, games_rows(plan, records))


def games_rows(plan: Plan, records: Records) -> list[list[str]]:
    """The rows of that table; optimizers that played no game are left out."""
    rows = []
    for contestant in plan.contestants:
        cells = []
        for game in plan.games:
            keys = [key for key in plan.game_keys(contestant) if key.task == game.name]
            results = [r for r in map(records.get, keys) if r is not None]
            played = [r for r in results if isinstance(r, Played)]
            if not played:
                cells.append(f"{len(results)} failed" if results else NOTHING)
                continue
            mean = statistics.fmean(r.figure for r in played)
            works = sum(r.works for r in played)
            cells.append(f"{mean:.3g}, works in {works} of {len(results)}")
        if any(cell != NOTHING for cell in cells):
            rows.append([contestant.title, *cells])
    return rows


def plan_of(records: Records) -> Plan:
    """The plan of what is recorded, with peers and rules of this package only."""
    keys = [key for key, _ in records.items()]
    names = {key.optimizer for key in keys if ":" not in key.optimizer}
    own = sorted(name for name in names if name not in CONTESTANTS)
    played, steps = {key.task for key in keys}, records.facts["steps"]
    trials = Counter((key.task, key.optimizer) for key in keys if key.seed == TUNING_SEED)
    return Plan(
        tasks=[replace(TASKS[n], steps=steps[n]) for n in TASKS if n in played],
        games=[replace(GAMES[n], steps=steps[n]) for n in GAMES if n in played],
        contestants=[
            *map(find_contestant, own),
            *(c for n, c in CONTESTANTS.items() if n in names),
        ],
        seeds=1 + max(key.seed for key in keys if key.seed != TUNING_SEED),
        trials=max(trials.values(), default=1),
        sensitivity=True,
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(header, rows) if rows else ""
