"""The table of a few-shot job, as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from meta_train.few_shot.scores import Evaluation
from meta_train.few_shot.trained import TrainedMethod
from meta_train.few_shot.verification import Verification

MAX_COLUMNS = 4
"""Columns that fit into 80 characters next to the longest name."""


def as_json(
    trained: TrainedMethod, evaluation: Evaluation, verification: Verification | None = None
) -> dict[str, Any]:
    """Facts of training and results of testing, as plain data."""
    return {
        **trained.facts,
        "metric": evaluation.metric,
        "episodes": evaluation.episodes,
        "diverged_episodes": evaluation.diverged,
        "results": [
            {
                evaluation.counts: steps,
                "mean": _finite(evaluation.mean(steps)),
                "interval": _finite(evaluation.interval(steps)),
            }
            for steps in evaluation.steps
        ],
        "verification": None
        if verification is None
        else {
            "equal_error_rate": _finite(verification.equal_error_rate),
            "interval": _finite(verification.interval),
            "same_pairs": verification.same,
            "different_pairs": verification.different,
        },
    }


@dataclass(frozen=True)
class RecordedEvaluation:
    """An evaluation that `as_json` wrote.

    Attributes:
        facts: the data of one method.
    """

    facts: Mapping[str, Any]

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return int(self.facts["episodes"])

    @property
    def steps(self) -> tuple[int, ...]:
        """Inner steps after which the query sets were evaluated."""
        return tuple(one["steps"] for one in self.facts["results"])

    def mean(self, steps: int) -> float:
        """Mean over episodes after a number of inner steps."""
        return self._number(steps, "mean")

    def interval(self, steps: int) -> float:
        """Half the 95% confidence interval of the mean."""
        return self._number(steps, "interval")

    def _number(self, steps: int, name: str) -> float:
        (found,) = (one[name] for one in self.facts["results"] if one["steps"] == steps)
        return math.nan if found is None else float(found)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def render(
    methods: Mapping[str, tuple[TrainedMethod, Evaluation]],
    title: str,
    verified: Mapping[str, Verification] = MappingProxyType({}),
) -> str:
    """A table of at most 80 characters per line.

    Args:
        methods: methods and their evaluations by name.
        title: describes the episodes.
        verified: equal error rates by name, of the methods that have one.
    """
    first = next(iter(methods.values()))[1]
    lines = ["", title]
    if len(methods) == 1:
        lines.append(f"  {'inner steps':>11} {first.metric:>20}")
        for steps in first.steps:
            lines.append(f"  {steps:>11} {_cell(first, steps):>20}")
        for one in verified.values():
            rate = _error_rate(one)
            lines.append(
                f"EER: {rate} (equal error rate: do two examples belong to the same class?)"
            )
        ((trained, _),) = methods.values()
        if (figure := _published(trained)) is not None:
            lines.append(f"published {first.metric}: {figure}")
    else:
        figures = {name: _published(trained) for name, (trained, _) in methods.items()}
        shown = any(figures.values())
        columns = _columns(methods, MAX_COLUMNS - bool(verified) - shown)
        heads = [_head(column) for column in columns]
        heads += ["EER"] * bool(verified) + ["published"] * shown
        lines.append(f"{first.metric + ' after':<27}" + "".join(f"{head:>13}" for head in heads))
        for name, (trained, evaluation) in methods.items():
            cells = [
                _cell(evaluation, trained.method.test_steps if column is None else column)
                for column in columns
            ]
            if verified:
                cells.append(_error_rate(verified.get(name)))
            if shown:
                cells.append(figures[name] or "-")
            lines.append(f"{name:<27}" + "".join(f" {cell:>12}" for cell in cells))
        lines += _after_own_steps(methods, columns)
    for name, (_, evaluation) in methods.items():
        if evaluation.diverged:
            lines.append(
                f"{name}: {evaluation.diverged} of {evaluation.episodes} episodes diverged and "
                "stopped there"
            )
    scale = "in percent, " if first.metric == "accuracy" else ""
    lines.append(f"{scale}mean and 95% interval over {first.episodes} episodes")
    if verified and len(methods) > 1:
        lines.append(
            "EER: equal error rate of telling whether two examples belong to the same class"
        )
    return "\n".join(lines)


def _columns(
    methods: Mapping[str, tuple[TrainedMethod, Evaluation]], most: int
) -> list[int | None]:
    """At most so many numbers of inner steps; None is each method's own."""
    every = [set(evaluation.steps) for _, evaluation in methods.values()]
    evaluated = sorted(set().union(*every))
    if len(evaluated) <= most:
        return list(evaluated)
    if len(shared := sorted(set.intersection(*every))) > MAX_COLUMNS:
        # The first, the last, and where there is room an early one and one in the middle.
        between = [shared[1], shared[len(shared) // 2]]
        return [shared[0], *between[: most - 2], shared[-1]]
    early = (0, 1)[: most - 1]
    return [*(step for step in early if step in evaluated), None]


def _after_own_steps(
    methods: Mapping[str, tuple[TrainedMethod, Evaluation]], columns: list[int | None]
) -> list[str]:
    """Results after the methods' own steps, where no column shows them."""
    if None in columns:
        return []
    last = columns[-1]
    assert last is not None
    lines = []
    for name, (trained, evaluation) in methods.items():
        own = trained.method.test_steps
        if own > last and own in evaluation.steps:
            lines.append(f"{name}, after its {own} steps: {_cell(evaluation, own)}")
    return lines


def _published(trained: TrainedMethod) -> str | None:
    """The paper's accuracy on these episodes, in percent, or None."""
    figure = trained.facts.get("published")
    if figure is None:
        return None
    mean, interval = figure
    return f"{mean:g}" if interval is None else f"{mean:g}+-{interval:g}"


def _head(column: int | None) -> str:
    if column is None:
        return "its steps"
    return f"{column} step{'' if column == 1 else 's'}"


def _error_rate(verification: Verification | None) -> str:
    if verification is None:
        return "-"
    rate, interval = verification.equal_error_rate, verification.interval
    if not math.isfinite(rate):
        return "diverged"
    text = f"{100 * rate:.1f}"
    return text + (f"+-{100 * interval:.1f}" if math.isfinite(interval) else "")


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
        digits = sum(larger < bound for bound in (10, 100)) + 1  # At most 12 characters.
        text, spread = f"{mean:.{digits}f}", f"+-{interval:.{digits}f}"
    else:
        text, spread = f"{mean:.3g}", ""
    return text + (spread if math.isfinite(interval) else "")  # One episode has no interval.
