"""Comparison of a learned optimizer with tuned hand-designed ones on tasks that it has not seen.

All optimizers train the same problems on the same batches. A hand-designed optimizer runs at every
learning rate of a grid. Each of its figures is taken at the learning rate that is best for this
figure on these problems. The learned optimizer runs once, with its default settings. A rule that
keeps an average of the parameters is not told the number of steps, and is evaluated at the average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from learned_opt.checks.arguments import check_function, check_type, shown
from learned_opt.checks.setting_types import fitted
from learned_opt.optimizer.options import whole_number
from learned_opt.rules import UpdateRule
from learned_opt.rules.rule_argument import check_rule
from meta_train.evaluation.baselines import BASELINES, Baseline
from meta_train.evaluation.comparison.trainings import ComparisonTask, job_mapper
from meta_train.evaluation.curves import Curves


@dataclass(frozen=True)
class ComparedOptimizer:
    """Results of one optimizer on one task.

    Attributes:
        label: name of the optimizer.
        mean_loss: mean and standard deviation over seeds of the mean training loss.
        mean_loss_lr: learning rate of the best mean loss.
        final_loss: mean and standard deviation over seeds of the loss on all data at the end.
        final_loss_lr: learning rate of the best final loss.
        at_edge: a best learning rate is the first or last of the grid: the grid is too narrow.
        curve: training loss at `mean_loss_lr`, `[seeds, steps]`.
        checked: steps after which the loss on all data was computed, `[checks]`.
        full_curve: loss on all data at `final_loss_lr`, `[seeds, checks]`.
        steps_to_reach: inner steps to the learned optimizer's final loss; infinite if it is not
            reached, NaN for the learned optimizer itself.
        diverged: number of diverged runs at `mean_loss_lr`.
    """

    label: str
    mean_loss: tuple[float, float]
    mean_loss_lr: float
    final_loss: tuple[float, float]
    final_loss_lr: float
    at_edge: bool
    curve: Tensor
    checked: Tensor
    full_curve: Tensor
    steps_to_reach: float
    diverged: int


def compare(
    rule: UpdateRule,
    tasks: Sequence[ComparisonTask],
    *,
    seeds: Sequence[int],
    baselines: Sequence[Baseline] = BASELINES,
    device: torch.device | str = "auto",
    workers: int = 1,
    on_steps: Callable[[int], object] | None = None,
) -> Mapping[str, list[ComparedOptimizer]]:
    """Compare a learned optimizer with tuned baselines.

    Examples:
        >>> tasks = [ComparisonTask("digits", "digits MLP", task, steps=100, patience=200)]
        >>> print(render_table(compare(rule, tasks, seeds=range(8)), tasks))

    Args:
        rule: the learned optimizer.
        tasks: the tasks.
        seeds: problems per task.
        baselines: the hand-designed optimizers.
        device: device of training.
        workers: number of processes. With more than one, tasks must be picklable, and a script
            needs `if __name__ == "__main__"`.
        on_steps: called with a number of inner steps whenever an optimizer has taken them.

    Returns:
        By task name: the learned optimizer first, then the baselines.

    Raises:
        TypeError: an argument of another type; the message names it.
        ValueError: not a rule, not tasks, seeds that are not whole numbers, or several workers and
            a task that cannot be pickled.
    """
    check_rule(rule)
    check_type("tasks", tasks, Iterable, "a list of ComparisonTask")
    for task in tasks:
        if not isinstance(task, ComparisonTask):
            raise ValueError(f"tasks must be a list of ComparisonTask, got {shown(tasks)}")
    check_type("baselines", baselines, Iterable, "a list of Baseline")
    for baseline in baselines:
        check_type("a baseline", baseline, Baseline, "a Baseline")
    problems = fitted("seeds", seeds, Sequence[int])
    workers = whole_number("workers", workers)
    if on_steps is not None:
        check_function("on_steps", on_steps, "a function of a number of steps")
    jobs = [(task, baseline) for task in tasks for baseline in (None, *baselines)]
    results = {}
    with job_mapper(workers) as mapper:
        arguments = [(rule, *job, list(problems), str(device)) for job in jobs]
        for job, curves in zip(jobs, mapper(arguments), strict=True):
            results[job] = curves
            if on_steps is not None:
                on_steps(job[0].length(job[1]))
    table = {}
    for task in tasks:
        own = results[task, None]
        learned = _result("learned", own, [rule.default_lr], task.steps, math.nan)
        target = learned.final_loss[0]
        others = [
            _result(b.label, results[task, b], b.learning_rates, task.steps, target)
            for b in baselines
        ]
        table[task.name] = [learned, *others]
    return MappingProxyType(table)


def total_steps(tasks: Sequence[ComparisonTask], baselines: Sequence[Baseline] = BASELINES) -> int:
    """The sum of inner steps that `compare` passes to `on_steps`."""
    return sum(task.length(baseline) for task in tasks for baseline in (None, *baselines))


def _result(
    label: str, curves: Curves, learning_rates: Sequence[float], steps: int, target: float
) -> ComparedOptimizer:
    means, finals = curves.mean_losses(steps), curves.final_losses(steps)
    by_mean = int(means.mean(1).nan_to_num(math.inf).argmin())
    by_final = int(finals.mean(1).nan_to_num(math.inf).argmin())
    edges = {0, len(learning_rates) - 1} if len(learning_rates) > 1 else set()
    return ComparedOptimizer(
        label=label,
        mean_loss=_mean_and_std(means[by_mean]),
        mean_loss_lr=float(learning_rates[by_mean]),
        final_loss=_mean_and_std(finals[by_final]),
        final_loss_lr=float(learning_rates[by_final]),
        at_edge=bool({by_mean, by_final} & edges),
        curve=curves.losses[by_mean, :, :steps],
        checked=curves.checked[curves.checked <= steps],
        full_curve=curves.full_losses[by_final][:, curves.checked <= steps],
        steps_to_reach=math.nan if math.isnan(target) else curves.steps_to_reach(target),
        diverged=int(curves.losses[by_mean, :, steps - 1].isinf().sum()),
    )


def _mean_and_std(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) if len(values) > 1 else 0.0


def best_baseline(
    results: Sequence[ComparedOptimizer],
    figure: Callable[[ComparedOptimizer], tuple[float, float]],
) -> ComparedOptimizer:
    """The baseline with the lowest mean of `figure`."""
    return min(results[1:], key=lambda result: figure(result)[0])
