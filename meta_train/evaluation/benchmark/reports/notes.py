"""Notes below a benchmark's tables: failed runs, and settings at the ends of their grids."""

from __future__ import annotations

from collections.abc import Iterator

from meta_train.evaluation.benchmark.contestants.contestant import Contestant, Setting
from meta_train.evaluation.benchmark.plan import Plan
from meta_train.evaluation.benchmark.records import TUNING_SEED, Failed, Records

CLOSE = 1.01
"""Step sizes whose ratio is less than this are equal: records round them."""

FEWEST = 3
"""Different values of a step size that make a grid, which has a middle and ends."""


def notes(plan: Plan, records: Records) -> list[str]:
    """One line for each failed run, and one for all tuned settings at an end of their grids."""
    lines = [
        f"{key.task}, {key.optimizer}, seed {key.seed} failed: {result.message}"
        for key, result in records.items()
        if isinstance(result, Failed) and key.seed != TUNING_SEED
    ]
    at_ends = "; ".join(settings_at_ends(plan, records))
    if at_ends:
        lines.append(
            "Best step size at an end of those tried, so that a better one may lie beyond: "
            f"{at_ends}."
        )
    return lines


def settings_at_ends(plan: Plan, records: Records) -> Iterator[str]:
    """Tuned settings whose step size is the smallest or the largest tried, as text."""
    for entry in plan.entries():
        if not entry.tuned:
            continue
        for task in plan.tasks:
            best = plan.setting(entry, task, records)
            if best is None:
                continue
            for rate, end in _rates_at_ends(plan, entry.contestant, best):
                yield f"{entry.contestant.name} on {task.name} ({rate} {best[rate]:.3g}, {end})"


def _rates_at_ends(plan: Plan, contestant: Contestant, best: Setting) -> Iterator[tuple[str, str]]:
    for rate in contestant.rates:
        tried = {setting[rate] for setting in plan.settings_to_try(contestant)}
        if len(tried) < FEWEST:
            continue
        if best[rate] <= min(tried) * CLOSE:
            yield rate, "the smallest"
        elif best[rate] >= max(tried) / CLOSE:
            yield rate, "the largest"
