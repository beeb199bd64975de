"""Comparison of a learned optimizer with tuned hand-designed ones on tasks that it has not seen.

All optimizers train the same problems on the same batches. A hand-designed optimizer runs at every
learning rate of a grid. Each of its figures is taken at the learning rate that is best for this
figure on these problems. The learned optimizer runs once, with its default settings. A rule that
keeps an average of the parameters is not told the number of steps, and is evaluated at the average.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from learned_opt.arguments import shown
from learned_opt.rule_argument import check_rule
from learned_opt.rules import UpdateRule, create_rule
from meta_train.evaluation.baselines import BASELINES, SCHEDULES, Baseline
from meta_train.evaluation.processes import interrupts_held, worker_pool
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import InnerState, stack, start
from meta_train.runtime.device import choose_device
from meta_train.runtime.seeding import generator
from meta_train.tasks import Task


@dataclass(frozen=True)
class Curves:
    """Losses of one optimizer, at every learning rate and on every seed.

    Attributes:
        losses: training loss of each step, `[learning rates, seeds, steps]`; infinite after
            divergence.
        checked: steps after which the loss on all data was computed, `[checks]`.
        full_losses: loss on all data, `[learning rates, seeds, checks]`.
    """

    losses: Tensor
    checked: Tensor
    full_losses: Tensor

    def mean_losses(self, steps: int) -> Tensor:
        """Mean training loss over the first `steps` steps, `[learning rates, seeds]`."""
        return self.losses[..., :steps].mean(-1)

    def final_losses(self, steps: int) -> Tensor:
        """Loss on all data after `steps` steps, `[learning rates, seeds]`."""
        position = int((self.checked == steps).nonzero()[0, 0])
        return self.full_losses[..., position]

    def steps_to_reach(self, target: float) -> float:
        """Steps until the mean loss over seeds is at most `target`, at the fastest learning rate.

        Infinite if no learning rate reaches it.
        """
        reached = self.full_losses.mean(1) <= target
        if not bool(reached.any()):
            return math.inf
        return float(torch.where(reached, self.checked.double(), math.inf).min())


def train_curves(
    rule: UpdateRule,
    task: Task,
    *,
    seeds: Sequence[int],
    steps: int,
    learning_rates: Sequence[float] | None = None,
    schedule: str = "constant",
    weight_decay: float = 0.0,
    check_every: int = 5,
    device: torch.device | str = "auto",
) -> Curves:
    """Train one problem per seed and learning rate, all together.

    Args:
        rule: the update rule.
        task: source of the problems. A seed gives the same problem for every rule.
        seeds: one problem each.
        steps: inner steps.
        learning_rates: learning rates; None is the rule's own.
        schedule: see `Baseline`.
        weight_decay: decoupled weight decay.
        check_every: steps between evaluations on all data.
        device: device of training.

    Returns:
        The losses, on the CPU.
    """
    device = choose_device(device)
    rule = rule if rule.device == device else copy.deepcopy(rule).to(device)
    problems = [task.sample(generator("evaluate", seed), device) for seed in seeds]
    batches = [generator("evaluate", seed, "batches") for seed in seeds]
    full = stack([problem.full() for problem in problems])
    learning_rates = [rule.default_lr] if learning_rates is None else learning_rates
    copies = len(learning_rates)

    def at_every_rate(tree: Any) -> Any:
        """`[seeds, ...]` to `[learning rates * seeds, ...]`."""
        return pytree.tree_map(lambda t: t.repeat(copies, *([1] * (t.dim() - 1))), tree)

    rates = torch.tensor(list(learning_rates), dtype=torch.float32, device=device)
    lr = rates.repeat_interleave(len(seeds))
    loop = InnerLoop(
        rule,
        problems[0].loss,
        vectorize=True,
        weight_decay=weight_decay,
        total_steps=None if rule.averages else steps,
        differentiable=False,
    )
    begin = start(rule, problems, vectorize=True)
    fields = {name: at_every_rate(getattr(begin, name)) for name in begin.__dataclass_fields__}
    inner = InnerState(**fields)
    full = at_every_rate(full)

    losses, full_losses, checked = [], [], []
    for step in range(1, steps + 1):
        batch = stack([p.draw(source) for p, source in zip(problems, batches, strict=True)])
        loop = replace(loop, lr=lr * SCHEDULES[schedule](step, steps))
        inner, loss = loop.step(inner, at_every_rate(batch))
        losses.append(torch.where(inner.alive, loss, math.inf))
        if step % check_every == 0 or step == steps:
            value = loop.evaluate(inner, full)
            full_losses.append(torch.where(inner.alive, value, math.inf).nan_to_num(math.inf))
            checked.append(step)
    shape = (copies, len(seeds), -1)
    return Curves(
        losses=torch.stack(losses, -1).reshape(shape).cpu(),
        checked=torch.tensor(checked),
        full_losses=torch.stack(full_losses, -1).reshape(shape).cpu(),
    )


@dataclass(frozen=True)
class ComparisonTask:
    """A task of the comparison.

    Attributes:
        name: key in results.
        title: title in tables and pictures.
        task: source of the problems.
        steps: inner steps of the compared losses.
        patience: inner steps in which a baseline may still reach the learned optimizer's final
            loss, if more than `steps`.
    """

    name: str
    title: str
    task: Task
    steps: int
    patience: int

    def length(self, baseline: Baseline | None) -> int:
        """Inner steps of a baseline, or of the learned optimizer (None)."""
        return self.steps if baseline is None else max(self.steps, self.patience)


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


_Job: TypeAlias = tuple[UpdateRule, ComparisonTask, Baseline | None, list[int], str]
"""Rule, task, baseline (None for the rule itself), seeds and device."""


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
        ValueError: not a rule, not tasks, or several workers and a task that cannot be pickled.
    """
    check_rule(rule)
    for task in tasks:
        if not isinstance(task, ComparisonTask):
            raise ValueError(f"tasks must be a list of ComparisonTask, got {shown(tasks)}")
    jobs = [(task, baseline) for task in tasks for baseline in (None, *baselines)]
    results = {}
    with _mapper(workers) as mapper:
        arguments = [(rule, *job, list(seeds), str(device)) for job in jobs]
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


def _train_job(job: _Job) -> Curves:
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
        device=device,
    )


def _train_packed_job(packed: bytes) -> bytes:
    """`_train_job`, pickled both ways: tensors by value, not shared memory."""
    return pickle.dumps(_train_job(pickle.loads(packed)))


def _packed(job: _Job) -> bytes:
    try:
        return pickle.dumps(job)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"task {job[1].name!r} cannot be sent to other processes ({error}): take workers=1, or "
            "functions and classes from the top of a file"
        ) from error


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[[Sequence[_Job]], Iterable[Curves]]]:
    """A map of `_train_job`, here or over processes of one thread each."""
    if workers == 1:
        yield lambda jobs: map(_train_job, jobs)
        return
    with worker_pool(workers) as pool:

        def start(jobs: Sequence[_Job]) -> Iterable[Curves]:
            packed = [_packed(job) for job in jobs]
            with interrupts_held():
                return map(pickle.loads, pool.map(_train_packed_job, packed))

        yield start


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
