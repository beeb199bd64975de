"""Chooses by the size of a step whether inner runs train together or one by one.

`vmap` pays the cost of starting an operation once for all runs, but each operation then moves the
data of all runs. So it is faster where operations are small. The choice depends on shapes only, not
on a clock, so that a resumed process and all processes of a group choose alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from learned_opt.rules.base import UpdateRule
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import InnerState, stack, start
from meta_train.runtime.seeding import generator, seeded
from meta_train.tasks.base import Batch, BatchedLoss, Problem

MODES = ("auto", "always", "never")

LARGEST = 96 * 1024
"""Mean bytes per operation from which runs go one by one on a CPU.

Measured on one thread with 8 runs: KiB per operation, and the time of a meta-gradient one by one
divided by the time at once.

    sine MLP 1-40-40-1, sgd, second order           1.5   5.1
    MLP 64-32-32-32-10, step-size-lstm              3.4   3.5
    conv net on 8 x 8 images, step-size-lstm        9.0   2.6
    MLP 64-20-10 on digits, adam-lstm                19   2.1
    the same, lstm                                   59   1.3
    strided conv4 x 64, 5 images, sgd                48   1.6
    MLP 256-256-256-10, sgd                         103   1.3
    the same, step-size-lstm                        107   0.8
    strided conv4 x 64, 25 images, sgd              107   0.9
    MLP 64-64-10, lstm                              184   1.2
    strided conv4 x 64, 75 images, sgd              253   0.8
    MLP 784-20-10, lstm                             611   0.9

Near the threshold neither is much faster; one by one takes the memory of one run.

Where the task computes all losses together (`BatchedLoss.suits`), only the rule's operations count.
On the strided conv4 x 64 in C, with 4 or 8 runs, one by one took 1.06 (MAML, 5-way 5-shot) to 1.4
times as long as at once with sgd, 1.24 and 1.05 with prototypical networks (5-way 5-shot, 20-way
1-shot), 1.06 with adam, 1.5 with step-size-lstm."""


CHUNK = 256 * 1024
"""Bytes per operation of all runs together, up to which many runs are evaluated at once.

Evaluation keeps no graph, so only speed counts: operations should stay in the cache.
Measured on one thread on the strided conv4, ms an episode with 1, 5 and 25 at once: 5 images (48
KiB an operation of one) 224, 112, 129; 20 images 172, 187, 284; 100 images 422, 374, 1127;
adam-lstm on 5 images, with 1 and 5, 432, 560."""


@dataclass(frozen=True)
class VectorizeChoice:
    """Whether several inner runs go at once.

    Attributes:
        vectorize: True takes runs at once, under `vmap`; False takes them one by one.
        reason: why, for the log.
    """

    vectorize: bool
    reason: str


@dataclass(frozen=True)
class Work:
    """The cost of one inner step of one run.

    Attributes:
        operations: number of operator calls, without views.
        bytes: total size of their inputs and outputs.
    """

    operations: int
    bytes: int

    @property
    def mean_bytes(self) -> float:
        """Mean bytes per operation."""
        return self.bytes / max(self.operations, 1)


def choose_vectorize(
    rule: UpdateRule,
    problem: Problem,
    runs: int,
    device: torch.device,
    *,
    mode: str = "auto",
) -> VectorizeChoice:
    """Choose whether several runs go at once.

    Args:
        rule: the update rule.
        problem: one of the runs' problems; all have the same shapes.
        runs: number of runs.
        device: device of the runs.
        mode: "auto" measures; "always" and "never" decide.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    if mode != "auto":
        return VectorizeChoice(mode == "always", f"vectorize={mode!r}")
    if runs == 1:
        return VectorizeChoice(False, "only one run")
    if device.type != "cpu":
        return VectorizeChoice(True, f"the device is {device.type}")
    together = _computes_all_together(problem)
    measure = measure_update if together else measure_work
    size = measure(rule, problem).mean_bytes
    words = f"operations of {size / 1024:.1f} KiB on average"
    if together:
        words = f"the task computes all losses together; in the rule, {words}"
    return VectorizeChoice(
        size < LARGEST, f"{words}; one call is faster below {LARGEST // 1024} KiB"
    )


def choose_chunk(rule: UpdateRule, problem: Problem, most: int, device: torch.device) -> int:
    """Choose how many runs to evaluate at once, from 1 to `most`.

    Args:
        rule: the update rule.
        problem: one of the runs' problems; all have the same shapes.
        most: upper bound.
        device: device of the runs.
    """
    if device.type != "cpu":
        return most
    return max(1, min(most, int(CHUNK / measure_work(rule, problem).mean_bytes)))


def measure_work(rule: UpdateRule, problem: Problem) -> Work:
    """Count the operations of one inner step of one run: loss, gradient and update."""
    return _count(rule, problem, lambda loop, inner, batch: loop.step(inner, batch))


def measure_update(rule: UpdateRule, problem: Problem) -> Work:
    """Count the operations of one update of one run: a step without loss and gradient."""
    step = measure_work(rule, problem)
    loss = _count(rule, problem, lambda loop, inner, batch: loop.gradients(inner, batch))
    return Work(step.operations - loss.operations, step.bytes - loss.bytes)


def _count(
    rule: UpdateRule, problem: Problem, run: Callable[[InnerLoop, InnerState, Batch], object]
) -> Work:
    device = next(iter(problem.parameters.values())).device
    loop = InnerLoop(rule, problem.loss, False, total_steps=1, differentiable=False, traceable=True)
    batch = problem.draw(generator("work"))
    counter = _Counter()
    with seeded(device, "work"), counter:
        run(loop, start(rule, [problem], vectorize=False), batch)
    return Work(counter.operations, counter.bytes)


def _computes_all_together(problem: Problem) -> bool:
    """Whether the task's own way to compute many losses is no slower for runs of any size."""
    loss = problem.loss
    if not isinstance(loss, BatchedLoss) or loss.suits is None:
        return False
    tensors = {**problem.fixed, **problem.parameters}, problem.buffers
    parameters, buffers = ({k: v.unsqueeze(0) for k, v in part.items()} for part in tensors)
    return loss.suits(parameters, buffers, stack([problem.draw(generator("work"))]))


class _Counter(TorchDispatchMode):
    """Counts operators and the bytes of their inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [t for t in pytree.tree_leaves((args, result)) if isinstance(t, Tensor)]
            self.operations += 1
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return result
