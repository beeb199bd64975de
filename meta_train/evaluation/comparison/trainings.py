"""The trainings of a comparison, in this process or shared by several."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from learned_opt.checks.arguments import check_type
from learned_opt.rules import UpdateRule, create_rule
from meta_train.evaluation.baselines import Baseline
from meta_train.evaluation.curves import Curves, train_curves
from meta_train.evaluation.processes import interrupts_held, worker_pool
from meta_train.runtime.checks import check_at_least, make_plain
from meta_train.tasks import Task


@dataclass(frozen=True)
class ComparisonTask:
    """A task of the comparison.

    Attributes:
        name: key in results.
        title: title in tables and pictures.
        task: source of the problems.
        steps: inner steps of the compared losses.
        patience: inner steps in which a baseline may still reach the learned optimizer's final
            loss, if more than `steps`. Schedules end at `steps`.

    Raises:
        TypeError: `task` is no task.
        ValueError: another value that does not fit; the message names it.
    """

    name: str
    title: str
    task: Task
    steps: int
    patience: int

    def __post_init__(self) -> None:
        """Check the values."""
        make_plain(self)
        check_type("task", self.task, Task, "a Task")
        check_at_least(1, steps=self.steps)
        check_at_least(0, patience=self.patience)

    def length(self, baseline: Baseline | None) -> int:
        """Inner steps of a baseline, or of the learned optimizer (None)."""
        return self.steps if baseline is None else max(self.steps, self.patience)


Job: TypeAlias = tuple[UpdateRule, ComparisonTask, Baseline | None, list[int], str]
"""Rule, task, baseline (None for the rule itself), seeds and device."""


def _train_job(job: Job) -> Curves:
    """Train one optimizer on one task."""
    rule, task, baseline, seeds, device = job
    if baseline is not None:
        rule = create_rule(baseline.rule).to(rule.dtype)
    return train_curves(
        rule,
        task.task,
        seeds=seeds,
        steps=task.length(baseline),
        learning_rates=None if baseline is None else baseline.learning_rates,
        schedule="constant" if baseline is None else baseline.schedule,
        weight_decay=0.0 if baseline is None else baseline.weight_decay,
        check_every=math.gcd(5, task.steps),  # so that `steps` is checked, too
        planned_steps=task.steps,  # the compared losses are those after so many
        device=device,
    )


def _train_packed_job(packed: bytes) -> bytes:
    """`_train_job`, pickled both ways: tensors by value, not shared memory."""
    return pickle.dumps(_train_job(pickle.loads(packed)))


def _packed(job: Job) -> bytes:
    try:
        return pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"task {job[1].name!r} cannot be sent to other processes ({error}): take workers=1, or "
            "functions and classes from the top of a file"
        ) from error


@contextmanager
def job_mapper(workers: int) -> Iterator[Callable[[Sequence[Job]], Iterable[Curves]]]:
    """A map of `_train_job`, here or over processes of one thread each."""
    if workers == 1:
        yield lambda jobs: map(_train_job, jobs)
        return
    with worker_pool(workers) as pool:

        def start(jobs: Sequence[Job]) -> Iterable[Curves]:
            packed = [_packed(job) for job in jobs]
            with interrupts_held():
                return map(pickle.loads, pool.map(_train_packed_job, packed))

        yield start
