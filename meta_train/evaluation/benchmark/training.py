"""One run: train a workload with an optimizer, in an ordinary loop, and measure it on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.optim import Optimizer
from torch.optim.swa_utils import update_bn

from meta_train.evaluation.benchmark.contestants.contestant import (
    Contestant,
    HasModes,
    Setting,
    state_bytes,
)
from meta_train.evaluation.benchmark.workload import (
    Batch,
    BenchmarkTask,
    Workload,
    has_batch_norm,
    parameter_count,
)
from meta_train.runtime.seeding import generator, seeded

CHECKS = 25
"""Evaluations of a run, evenly spaced; the last one is at its end."""

STATISTICS = 128
"""Examples of a batch from which running statistics are recomputed."""


@dataclass(frozen=True)
class Trained:
    """The measurements of a run.

    Attributes:
        losses: training loss on the fixed set, before the first step and at every check; ends
            where the run diverged.
        error: the test figure at the end; infinite after divergence.
        seconds: CPU time of the training steps, without evaluation.
        step_seconds: the part of it in which the optimizer stepped.
        state: bytes of the optimizer's state for each parameter.
        parameters: trained numbers of the model.
        diverged: the loss was not finite, or ended above its start.
    """

    losses: tuple[float, ...]
    error: float
    seconds: float
    step_seconds: float
    state: float
    parameters: int
    diverged: bool


def train_once(
    task: BenchmarkTask,
    contestant: Contestant,
    setting: Setting,
    *,
    seed: int,
    steps: int,
    told_steps: int | None = None,
) -> Trained:
    """Train a task once.

    Equal seeds give all optimizers the same initial weights and the same batches.

    Args:
        task: the task.
        contestant: the optimizer.
        setting: its options.
        seed: seed of weights and batches.
        steps: training steps.
        told_steps: number of steps that the optimizer is told; by default `steps`.
    """
    with seeded(torch.device("cpu"), "benchmark", task.name, seed):
        workload = task.make()
        told = steps if told_steps is None else told_steps
        optimizer, scheduler = contestant.build(workload, setting, told)
        model = workload.model
        checks = {max(1, round(steps * k / CHECKS)) for k in range(1, CHECKS + 1)}
        losses = [_evaluate(workload, optimizer)[0]]
        seconds = step_seconds = 0.0
        error = math.inf
        batches = _batches(task, workload, seed)
        for step in range(1, steps + 1):
            batch = next(batches)
            begin = time.thread_time()
            optimizer.zero_grad()
            loss = workload.loss(model, batch)
            loss.backward()
            middle = time.thread_time()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            end = time.thread_time()
            seconds += end - begin
            step_seconds += end - middle
            if not math.isfinite(loss.item()):
                break
            if step in checks:
                measured, error = _evaluate(workload, optimizer, test=step == steps)
                if not math.isfinite(measured):
                    break
                losses.append(measured)
        finished = len(losses) == len(checks) + 1
        count = parameter_count(model)
        return Trained(
            losses=tuple(losses),
            error=error if finished and math.isfinite(error) else math.inf,
            seconds=seconds,
            step_seconds=step_seconds,
            state=state_bytes(optimizer) / count,
            parameters=count,
            diverged=not finished or losses[-1] > losses[0],
        )


def _batches(task: BenchmarkTask, workload: Workload, seed: int) -> Iterator[Batch]:
    """Batches of examples drawn at random."""
    source = generator("benchmark", task.name, seed, "batches")
    count = len(workload.train[0])
    while True:
        if task.batch is None:
            yield workload.train
            continue
        chosen = torch.randint(count, (task.batch,), generator=source)
        yield tuple(values[chosen] for values in workload.train)


def _evaluate(
    workload: Workload, optimizer: Optimizer, *, test: bool = False
) -> tuple[float, float]:
    """The loss on the fixed set in evaluation mode, and the test figure if it is asked for.

    Running statistics of batch normalisation are recomputed, for every optimizer alike: those of
    training belong to other weights where the optimizer evaluates at an average.
    """
    model = workload.model
    if isinstance(optimizer, HasModes):
        optimizer.eval()
    fixed = workload.fixed()
    if has_batch_norm(model):
        update_bn(fixed[0].split(STATISTICS), model)
    model.eval()
    with torch.no_grad():
        loss = float(workload.loss(model, fixed))
        error = float(workload.error(model, workload.test)) if test else math.inf
    model.train()
    if isinstance(optimizer, HasModes):
        optimizer.train()
    return loss, error
