"""A benchmark in short, for a terminal of 80 columns; `full_report.py` writes all of it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from meta_train.evaluation.benchmark.plan import Entry, Plan
from meta_train.evaluation.benchmark.records import Records
from meta_train.evaluation.benchmark.reports.full_report import NOTHING, games_rows
from meta_train.evaluation.benchmark.reports.notes import notes
from meta_train.evaluation.benchmark.reports.scores import (
    TaskScore,
    all_scores,
    reference_scores,
    summaries,
)
from meta_train.evaluation.tables import markdown_table

WIDTH = 80
"""Columns of a terminal."""

LEAST = 8
"""The first column of a table is not cut to fewer characters than this."""


def render_short(plan: Plan, records: Records) -> str:
    """Sums over tasks, the losses that matter of each task, games, notes: lines of 80 characters.

    The name of an optimizer of the user's own is cut where the line would be longer.
    """
    parts = [*_over_tasks(plan, records), *_by_task(plan, records), *_games(plan, records)]
    return "\n\n".join([*parts, *map(_wrap, notes(plan, records))]) + "\n"


def _over_tasks(plan: Plan, records: Records) -> Iterator[str]:
    found = summaries(all_scores(plan, records))
    ordered = sorted(found, key=lambda entry: found[entry].log_ratio)
    rows = [
        [
            entry.title,
            f"{found[entry].wins} of {found[entry].tasks}",
            f"{found[entry].log_ratio:+.3f}",
            f"{found[entry].speed_up:.2f}",
            str(found[entry].diverged),
        ]
        for entry in ordered
    ]
    if rows:
        yield _table(["optimizer", "wins", "log ratio", "speed-up", "diverged"], rows)
        yield _wrap(
            "Beside AdamW tuned for each task: tasks with a lower final training loss than its, "
            "mean log ratio of these losses, how many times fewer steps reach its loss "
            "(interquartile mean), and diverged runs."
        )


def _by_task(plan: Plan, records: Records) -> Iterator[str]:
    scores = all_scores(plan, records)
    if not scores:
        return
    reference = reference_scores(scores)
    own = next(iter(scores))
    rows = []
    for task in plan.tasks:
        known = {entry: scores[entry][task.name] for entry in scores if task.name in scores[entry]}
        if known:
            best = min(known, key=lambda entry: known[entry].final)
            one, base = known.get(own), reference.get(task.name)
            rows.append([task.name, _final(one), _final(base), _final(known[best]), _short(best)])
    if rows:
        yield _table(["task", "own", "AdamW", "lowest", "by"], rows)
        yield _wrap(
            f"Final training loss, geometric mean over seeds. own: {own.title}. AdamW: with a "
            "cosine, tuned for each task. lowest: of all optimizers here."
        )


def _games(plan: Plan, records: Records) -> Iterator[str]:
    rows = games_rows(plan, records)
    if rows:
        yield _table(["optimizer", *(game.name for game in plan.games)], rows)
        yield _wrap("; ".join(f"{game.name}: {game.figure}" for game in plan.games) + ".")


def _final(score: TaskScore | None) -> str:
    if score is None:
        return NOTHING
    return f"{score.final:.3g}" if math.isfinite(score.final) else "diverged"


def _short(entry: Entry) -> str:
    how = (", tuned" if entry.tuned else ", default") if entry.contestant.trials else ""
    return entry.contestant.name + how


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is cut to what the others leave of the width."""
    columns = [*zip(header, *rows, strict=True)][1:]
    rest = sum(max(3, *map(len, column)) for column in columns)
    room = max(LEAST, WIDTH - rest - len("|  |") - len(" | ") * len(columns))
    cut = [[_cut(first, room), *others] for first, *others in rows]
    return markdown_table(header, cut)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
