"""Compare a learned optimizer with tuned hand-designed ones on tasks that it has not seen.

All optimizers train the same problems on the same batches. Hand-designed ones run at every rate of
a grid, and each figure is taken at the rate that is best for that very figure on these very
problems; the learned one runs once, at its one default setting.
"""

from __future__ import annotations

import copy
import math
import multiprocessing
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from learned_opt.rules import UpdateRule, create_rule
from meta_train.evaluation.baselines import BASELINES, SCHEDULES, Baseline
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import InnerState, stack, start
from meta_train.runtime.device import choose_device
from meta_train.runtime.seeding import generator
from meta_train.tasks import Task


@dataclass(frozen=True)
class Curves:
    """What training under one rule gave, at every rate and on every seed.

    Attributes:
        losses: training loss of each step, `[rates, seeds, steps]`; infinite once diverged.
        checked: steps after which the loss on all of a problem's data was taken, `[checks]`.
        full_losses: that loss, `[rates, seeds, checks]`.
    """

    losses: Tensor
    checked: Tensor
    full_losses: Tensor

    def mean_losses(self, steps: int) -> Tensor:
        """Mean training loss over the first `steps` steps, `[rates, seeds]`."""
        return self.losses[..., :steps].mean(-1)

    def final_losses(self, steps: int) -> Tensor:
        """Loss on all data after `steps` steps, `[rates, seeds]`."""
        position = int((self.checked == steps).nonzero()[0, 0])
        return self.full_losses[..., position]

    def steps_to_reach(self, target: float) -> float:
        """Steps until the loss, averaged over seeds, is at most `target`, at the fastest rate."""
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
    rates: Sequence[float] | None = None,
    schedule: str = "constant",
    weight_decay: float = 0.0,
    check_every: int = 5,
    device: torch.device | str = "auto",
) -> Curves:
    """Train a problem per seed and rate, all at once.

    Args:
        rule: the update rule.
        task: problems are drawn from it; seed by seed they are the same whatever the rule.
        seeds: one problem each.
        steps: inner steps.
        rates: step sizes; None is the rule's own alone.
        schedule: see `Baseline`.
        weight_decay: decoupled.
        check_every: steps between losses on all data.
        device: where to train.
    """
    device = choose_device(device)
    rule = rule if rule.device == device else copy.deepcopy(rule).to(device)
    problems = [task.sample(generator("evaluate", seed), device) for seed in seeds]
    batches = [generator("evaluate", seed, "batches") for seed in seeds]
    full = stack([problem.full() for problem in problems])
    rates = [rule.default_lr] if rates is None else rates
    copies = len(rates)

    def at_every_rate(tree: Any) -> Any:
        """`[seeds, ...]` to `[rates * seeds, ...]`."""
        return pytree.tree_map(lambda t: t.repeat(copies, *([1] * (t.dim() - 1))), tree)

    lr = torch.tensor(list(rates), device=device).repeat_interleave(len(seeds))
    loop = InnerLoop(
        rule,
        problems[0].loss,
        vectorize=True,
        weight_decay=weight_decay,
        total_steps=steps,
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
class Column:
    """One condition of the comparison.

    Attributes:
        name: a short key.
        title: what a reader sees.
        task: the problems.
        steps: length of training that the figures are of.
        patience: how long baselines may go on to reach the learned optimizer's final loss.
    """

    name: str
    title: str
    task: Task
    steps: int
    patience: int

    def length(self, entrant: Baseline | None) -> int:
        """How many steps a baseline, or (None) the learned optimizer, is trained for."""
        return self.steps if entrant is None else max(self.steps, self.patience)


@dataclass(frozen=True)
class Row:
    """One optimizer in one condition.

    Attributes:
        label: the optimizer.
        mean_loss: mean and standard deviation over seeds of the mean training loss.
        mean_rate: the rate at which it was best.
        final_loss: mean and standard deviation of the loss on all data at the end.
        final_rate: the rate at which that was best.
        at_edge: a best rate was the first or last of the grid: the grid was too narrow.
        curve: training loss by step at `mean_rate`, `[seeds, steps]`.
        steps_to_reach: steps to the learned optimizer's final loss; infinite if not in `patience`.
        diverged: of the runs at `mean_rate`, how many.
    """

    label: str
    mean_loss: tuple[float, float]
    mean_rate: float
    final_loss: tuple[float, float]
    final_rate: float
    at_edge: bool
    curve: Tensor
    steps_to_reach: float
    diverged: int


def compare(
    rule: UpdateRule,
    columns: Sequence[Column],
    *,
    seeds: Sequence[int],
    baselines: Sequence[Baseline] = BASELINES,
    device: torch.device | str = "auto",
    workers: int = 1,
    on_steps: Callable[[int], object] | None = None,
) -> Mapping[str, list[Row]]:
    """Run the comparison.

    Args:
        rule: the learned optimizer.
        columns: conditions.
        seeds: problems per condition.
        baselines: what it is compared with.
        device: where to train.
        workers: trainings to run side by side, in processes (tasks must then be picklable, and a
            script needs its `if __name__ == "__main__"`).
        on_steps: told how many inner steps are done, whenever a training is.

    Returns:
        By column: the learned optimizer's row first, then the baselines'.
    """
    jobs = [(column, entrant) for column in columns for entrant in (None, *baselines)]
    packed = [pickle.dumps((rule, *job, list(seeds), str(device))) for job in jobs]
    results = {}
    with _mapper(workers) as mapper:
        for job, curves in zip(jobs, mapper(_train_job, packed), strict=True):
            results[job] = pickle.loads(curves)
            if on_steps is not None:
                on_steps(job[0].length(job[1]))
    table = {}
    for column in columns:
        learned = _row("learned", results[column, None], [rule.default_lr], column.steps, math.nan)
        others = [
            _row(b.label, results[column, b], b.rates, column.steps, learned.final_loss[0])
            for b in baselines
        ]
        table[column.name] = [learned, *others]
    return MappingProxyType(table)


def total_steps(columns: Sequence[Column], baselines: Sequence[Baseline] = BASELINES) -> int:
    """How many steps `compare` tells `on_steps` of."""
    return sum(column.length(entrant) for column in columns for entrant in (None, *baselines))


def _train_job(packed: bytes) -> bytes:
    """Train one entrant in one column. Bytes in and out: tensors by value, not by shared memory."""
    rule, column, baseline, seeds, device = pickle.loads(packed)
    if baseline is not None:
        rule = create_rule(baseline.rule).to(rule.dtype)
    curves = train_curves(
        rule,
        column.task,
        seeds=seeds,
        steps=column.length(baseline),
        rates=None if baseline is None else baseline.rates,
        schedule="constant" if baseline is None else baseline.schedule,
        weight_decay=0.0 if baseline is None else baseline.weight_decay,
        check_every=math.gcd(5, column.steps),  # baselines that go on are looked at there, too
        device=device,
    )
    return pickle.dumps(curves)


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """`map`, or its like over processes of one thread each."""
    if workers == 1:
        yield map
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield pool.map


def _row(label: str, curves: Curves, rates: Sequence[float], steps: int, target: float) -> Row:
    means, finals = curves.mean_losses(steps), curves.final_losses(steps)
    by_mean = int(means.mean(1).nan_to_num(math.inf).argmin())
    by_final = int(finals.mean(1).nan_to_num(math.inf).argmin())
    edges = {0, len(rates) - 1} if len(rates) > 1 else set()
    return Row(
        label=label,
        mean_loss=_mean_and_spread(means[by_mean]),
        mean_rate=float(rates[by_mean]),
        final_loss=_mean_and_spread(finals[by_final]),
        final_rate=float(rates[by_final]),
        at_edge=bool({by_mean, by_final} & edges),
        curve=curves.losses[by_mean, :, :steps],
        steps_to_reach=math.nan if math.isnan(target) else curves.steps_to_reach(target),
        diverged=int(curves.losses[by_mean, :, steps - 1].isinf().sum()),
    )


def _mean_and_spread(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) if len(values) > 1 else 0.0


def best(rows: Sequence[Row], figure: Callable[[Row], tuple[float, float]]) -> Row:
    """The hand-designed row that is best by `figure`."""
    return min(rows[1:], key=lambda row: figure(row)[0])
