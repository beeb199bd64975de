"""The few-shot table: to read, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meta_train.few_shot.evaluation import Evaluation
from meta_train.few_shot.training import Trained

SHOWN = 4
"""Columns that fit into 80 characters beside the longest name."""


def as_json(trained: Trained, evaluation: Evaluation) -> dict[str, Any]:
    """Everything that is known of a row."""
    return {
        **trained.facts,
        "metric": evaluation.metric,
        "episodes": evaluation.episodes,
        "diverged_episodes": evaluation.diverged,
        "results": [
            {
                "steps": steps,
                "mean": _finite(evaluation.mean(steps)),
                "interval": _finite(evaluation.interval(steps)),
            }
            for steps in evaluation.steps
        ],
    }


@dataclass(frozen=True)
class Recorded:
    """An evaluation as `as_json` wrote it.

    Attributes:
        facts: of one row.
    """

    facts: Mapping[str, Any]

    @property
    def episodes(self) -> int:
        """How many."""
        return int(self.facts["episodes"])

    @property
    def steps(self) -> tuple[int, ...]:
        """Inner steps after which query sets were judged."""
        return tuple(one["steps"] for one in self.facts["results"])

    def mean(self, steps: int) -> float:
        """The mean over episodes after so many steps."""
        return self._number(steps, "mean")

    def interval(self, steps: int) -> float:
        """Half the 95% confidence interval of the mean."""
        return self._number(steps, "interval")

    def _number(self, steps: int, name: str) -> float:
        (found,) = (one[name] for one in self.facts["results"] if one["steps"] == steps)
        return math.nan if found is None else float(found)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def render(rows: Mapping[str, tuple[Trained, Evaluation]], title: str) -> str:
    """A table of at most 80 characters' width.

    Args:
        rows: by name.
        title: what the episodes are.
    """
    first = next(iter(rows.values()))[1]
    lines = ["", title]
    if len(rows) == 1:
        lines.append(f"  {'inner steps':>11} {first.metric:>20}")
        for steps in first.steps:
            lines.append(f"  {steps:>11} {_cell(first, steps):>20}")
    else:
        columns = _columns(rows)
        heads = "".join(f"{_head(column):>13}" for column in columns)
        lines.append(f"{first.metric + ' after':<27}{heads}")
        for name, (trained, evaluation) in rows.items():
            cells = [
                _cell(evaluation, trained.row.test_steps if column is None else column)
                for column in columns
            ]
            lines.append(f"{name:<27}" + "".join(f" {cell:>12}" for cell in cells))
        lines += _beyond(rows, columns)
    for name, (_, evaluation) in rows.items():
        if evaluation.diverged:
            lines.append(
                f"{name}: {evaluation.diverged} of {evaluation.episodes} episodes diverged, and "
                "stand still since"
            )
    scale = "in percent, " if first.metric == "accuracy" else ""
    lines.append(f"{scale}mean and 95% interval over {first.episodes} episodes")
    return "\n".join(lines)


def _columns(rows: Mapping[str, tuple[Trained, Evaluation]]) -> list[int | None]:
    """Numbers of steps; None is each row's own."""
    every = [set(evaluation.steps) for _, evaluation in rows.values()]
    judged = sorted(set().union(*every))
    if len(judged) <= SHOWN:
        return list(judged)
    if len(shared := sorted(set.intersection(*every))) > SHOWN:
        # The first, the last, and some between, early ones rather.
        return [shared[0], shared[1], shared[len(shared) // 2], shared[-1]]
    return [*(step for step in (0, 1) if step in judged), None]


def _beyond(rows: Mapping[str, tuple[Trained, Evaluation]], columns: list[int | None]) -> list[str]:
    """What rows reach in as many steps as they are meant for, where no column shows it."""
    if None in columns:
        return []
    last = columns[-1]
    assert last is not None
    return [
        f"{name}, after its {trained.row.test_steps} steps: {_cell(scores, trained.row.test_steps)}"
        for name, (trained, scores) in rows.items()
        if trained.row.test_steps > last and trained.row.test_steps in scores.steps
    ]


def _head(column: int | None) -> str:
    if column is None:
        return "its steps"
    return f"{column} step{'' if column == 1 else 's'}"


def _cell(evaluation: Evaluation, steps: int) -> str:
    if steps not in evaluation.steps:
        return "-"
    mean, interval = evaluation.mean(steps), evaluation.interval(steps)
    if not math.isfinite(mean):
        return "diverged"
    if evaluation.metric == "accuracy":
        text, spread = f"{100 * mean:.1f}", f"+-{100 * interval:.1f}"
    elif mean < 100:
        larger = max(mean, interval if math.isfinite(interval) else 0.0)
        digits = sum(larger < bound for bound in (10, 100)) + 1  # within 12 characters
        text, spread = f"{mean:.{digits}f}", f"+-{interval:.{digits}f}"
    else:
        text, spread = f"{mean:.3g}", ""
    return text + (spread if math.isfinite(interval) else "")  # one episode has no interval
