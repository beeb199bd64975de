"""Scores of a benchmark: losses and test figures of each task, and means over tasks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from meta_train.evaluation.benchmark.contestants.registry import REFERENCE
from meta_train.evaluation.benchmark.plan import Entry, Plan
from meta_train.evaluation.benchmark.records import Records, RunKey
from meta_train.evaluation.benchmark.training import Trained
from meta_train.evaluation.benchmark.workload import BenchmarkTask

SMALLEST = 1e-12
"""Lower limit of a loss before its logarithm is taken."""

CLIP = 0.7
"""Largest log ratio of a task in means, in size: twice or half the loss. Otherwise a few tasks
whose loss can fall to nothing decide everything."""

SLOWEST = 4.0
"""In AlgoPerf's score, a task counts nothing that takes this many times as long as the fastest."""


@dataclass(frozen=True)
class TaskScore:
    """One optimizer on one task, over seeds.

    Attributes:
        finals: final training loss of each seed; infinite after divergence.
        errors: test figure of each seed.
        curve: geometric mean over seeds of the loss, at the start and at every check; empty if a
            run diverged or failed.
        seconds: mean CPU time of all training steps; infinite if all runs failed.
        state: bytes of optimizer state for each parameter; NaN if all runs failed.
        diverged: number of diverged or failed runs.
    """

    finals: tuple[float, ...]
    errors: tuple[float, ...]
    curve: tuple[float, ...]
    seconds: float
    state: float
    diverged: int

    @property
    def final(self) -> float:
        """Geometric mean over seeds of the final training loss."""
        return geometric_mean(self.finals)

    @property
    def spread(self) -> float:
        """Standard deviation over seeds of the final training loss."""
        finite = all(map(math.isfinite, self.finals))
        return statistics.stdev(self.finals) if finite and len(self.finals) > 1 else 0.0

    @property
    def error(self) -> float:
        """Mean test figure."""
        return statistics.fmean(self.errors)

    def share_until(self, target: float) -> float:
        """The part of the run until the mean curve is at most `target`; infinite if it never is.

        Between two checks the logarithm of the loss is taken to be a straight line.
        """
        intervals = len(self.curve) - 1
        for k in range(1, len(self.curve)):
            before, after = self.curve[k - 1], self.curve[k]
            # A mean of logarithms and its exponential differ in the last digits.
            if after <= target * (1 + 1e-9):
                if not math.isfinite(before) or before <= target:
                    return k / intervals
                fall = _log(before) - _log(after)
                return (k - 1 + min(1.0, (_log(before) - _log(target)) / fall)) / intervals
        return math.inf


def score(plan: Plan, records: Records, entry: Entry, task: BenchmarkTask) -> TaskScore | None:
    """The scored runs of a task that are recorded; None if there are none.

    A run that failed counts like one that diverged: an optimizer that raises on a hard task must
    not look better than one that trains it badly.
    """
    results = [records.get(key) for key in plan.scored(entry, task, records)]
    known = [result for result in results if result is not None]
    if not known:
        return None
    runs = [result for result in known if isinstance(result, Trained)]
    sound = [run for run in runs if not run.diverged]
    failed = len(known) - len(sound)
    lost = (math.inf,) * failed
    checks = range(len(runs[0].losses) if not failed else 0)
    return TaskScore(
        finals=tuple(run.losses[-1] for run in sound) + lost,
        errors=tuple(run.error for run in sound) + lost,
        curve=tuple(geometric_mean([run.losses[k] for run in sound]) for k in checks),
        seconds=statistics.fmean(run.seconds for run in runs) if runs else math.inf,
        state=runs[0].state if runs else math.nan,
        diverged=failed,
    )


def all_scores(plan: Plan, records: Records) -> dict[Entry, dict[str, TaskScore]]:
    """Scores by entry and name of the task; entries and tasks that were not run are left out."""
    found: dict[Entry, dict[str, TaskScore]] = {}
    for entry in plan.entries():
        by_task = {task.name: score(plan, records, entry, task) for task in plan.tasks}
        known = {name: one for name, one in by_task.items() if one is not None}
        if known:
            found[entry] = known
    return found


def reference_scores(scores: Mapping[Entry, Mapping[str, TaskScore]]) -> Mapping[str, TaskScore]:
    """The scores of tuned AdamW by task."""
    for entry, by_task in scores.items():
        if entry.tuned and entry.contestant.name == REFERENCE:
            return by_task
    return {}


@dataclass(frozen=True)
class Summary:
    """One optimizer over all tasks that both it and tuned AdamW have run.

    Attributes:
        tasks: number of these tasks.
        wins: tasks with a lower final training loss than tuned AdamW's.
        log_ratio: mean log ratio of the final training loss to tuned AdamW's, clipped.
        speed_up: interquartile mean of tuned AdamW's steps over the steps to its final loss.
        time_speed_up: the same in CPU seconds.
        algoperf: AlgoPerf's score in steps.
        time_algoperf: the same in CPU seconds.
        tests: tasks with a test figure no worse than tuned AdamW's.
        diverged: number of diverged or failed runs.
        state: mean bytes of optimizer state for each parameter; NaN if all runs failed.
    """

    tasks: int
    wins: int
    log_ratio: float
    speed_up: float
    time_speed_up: float
    algoperf: float
    time_algoperf: float
    tests: int
    diverged: int
    state: float


def summaries(scores: Mapping[Entry, Mapping[str, TaskScore]]) -> dict[Entry, Summary]:
    """A summary of every entry that shares a task with tuned AdamW."""
    reference = reference_scores(scores)
    shares = {
        entry: {
            name: (
                one.share_until(reference[name].final),
                one.share_until(reference[name].final) * one.seconds,
            )
            for name, one in by_task.items()
            if name in reference
        }
        for entry, by_task in scores.items()
    }
    fastest = [
        {
            name: min(by_task[name][kind] for by_task in shares.values() if name in by_task)
            for name in reference
        }
        for kind in (0, 1)
    ]
    found = {}
    for entry, by_task in scores.items():
        names = [name for name in by_task if name in reference]
        if not names:
            continue
        pairs = [(by_task[name], reference[name]) for name in names]
        own = [shares[entry][name] for name in names]
        profiles = [
            [_within(own[k][kind], fastest[kind][name]) for k, name in enumerate(names)]
            for kind in (0, 1)
        ]
        found[entry] = Summary(
            tasks=len(names),
            wins=sum(one.final < base.final for one, base in pairs),
            log_ratio=statistics.fmean(log_ratio(one.final, base.final) for one, base in pairs),
            speed_up=interquartile_mean([1 / steps for steps, _ in own]),
            time_speed_up=interquartile_mean(
                [base.seconds / spent for (_, base), (_, spent) in zip(pairs, own, strict=True)]
            ),
            algoperf=statistics.fmean(profiles[0]),
            time_algoperf=statistics.fmean(profiles[1]),
            tests=sum(one.error <= base.error for one, base in pairs),
            diverged=sum(one.diverged for one in by_task.values()),
            state=_mean_state(by_task.values()),
        )
    return found


class LossComparison(NamedTuple):
    """Final training losses of one optimizer beside another's.

    Attributes:
        lower: tasks on which its loss is lower.
        tasks: tasks that both have run.
        log_ratio: mean over tasks of the clipped log ratio of its loss to the other's; NaN without
            tasks.
        error: the standard error of that mean over tasks; NaN with fewer than two.
    """

    lower: int
    tasks: int
    log_ratio: float
    error: float


def losses_below(own: Mapping[str, TaskScore], other: Mapping[str, TaskScore]) -> LossComparison:
    """Compare two optimizers on the tasks that both have run."""
    pairs = [(one.final, other[name].final) for name, one in own.items() if name in other]
    ratios = [log_ratio(loss, base) for loss, base in pairs]
    return LossComparison(
        lower=sum(loss < base for loss, base in pairs),
        tasks=len(pairs),
        log_ratio=statistics.fmean(ratios) if ratios else math.nan,
        error=statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan,
    )


def _mean_state(scores: Iterable[TaskScore]) -> float:
    known = [one.state for one in scores if not math.isnan(one.state)]
    return statistics.fmean(known) if known else math.nan


def sensitivities(plan: Plan, records: Records, entry: Entry) -> dict[str, float]:
    """Mean clipped log ratio of the final loss, by what was varied, to that without."""
    ratios: dict[str, list[float]] = {}
    for task in plan.tasks:
        for what, keys in plan.varied(entry, task, records).items():
            varied, base = (_final(records, key) for key in keys)
            if varied is not None and base is not None:
                ratios.setdefault(what, []).append(log_ratio(varied, base))
    return {what: statistics.fmean(values) for what, values in ratios.items()}


def _final(records: Records, key: RunKey) -> float | None:
    result = records.get(key)
    if result is None:
        return None
    sound = isinstance(result, Trained) and not result.diverged
    return result.losses[-1] if sound and isinstance(result, Trained) else math.inf


def log_ratio(loss: float, base: float) -> float:
    """Log ratio of two losses, clipped; that of two infinite ones is 0."""
    if loss == base:
        return 0.0
    return max(-CLIP, min(CLIP, _log(loss) - _log(base)))


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean without the lowest and the highest quarter, each rounded down."""
    cut = len(values) // 4
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean; infinite if one of the values is."""
    if not values or math.inf in values:
        return math.inf
    return math.exp(statistics.fmean(_log(value) for value in values))


def _within(time: float, fastest: float) -> float:
    """(1/3) of the range of factors from 1 to 4 within which `time` reaches the fastest."""
    if not math.isfinite(time):
        return 0.0
    return max(0.0, SLOWEST - time / fastest) / (SLOWEST - 1) if fastest > 0 else 1.0


def _log(value: float) -> float:
    return math.log(max(value, SMALLEST)) if math.isfinite(value) else math.inf
