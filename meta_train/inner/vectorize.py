"""Runs at once or one by one: chosen from the size of the work, never from a clock.

`vmap` spreads the cost of starting an operation over all runs, and gives every operation as many
times the data to move. So it pays where the operations of one step are small. The choice depends on
shapes only: meta-training that is resumed, or shared by other processes, makes it again alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from learned_opt.rules.base import UpdateRule
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import start
from meta_train.runtime.seeding import generator, seeded
from meta_train.tasks.base import Problem

MODES = ("auto", "always", "never")

LARGEST = 96 * 1024
"""Mean bytes per operation from which runs go one by one on a CPU.

Measured on one thread with 8 runs: KiB per operation, and the time of a meta-gradient one by one
over that at once.

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

In between, neither gains much, and one by one takes the memory of one run."""


CHUNK = 256 * 1024
"""Bytes per operation of all runs together, up to which judging many runs takes them at once.

Nothing is kept for an outer gradient, so only speed counts: operations that stay in the cache.
Measured on one thread on the strided conv4, ms an episode with 1, 5 and 25 at once: 5 images (48
KiB an operation of one) 224, 112, 129; 20 images 172, 187, 284; 100 images 422, 374, 1127;
adam-lstm on 5 images, with 1 and 5, 432, 560."""


@dataclass(frozen=True)
class Choice:
    """How to run several inner runs.

    Attributes:
        vectorize: at once, under `vmap`; else one by one.
        reason: why, for people.
    """

    vectorize: bool
    reason: str


@dataclass(frozen=True)
class Work:
    """What one inner step of one run costs.

    Attributes:
        operations: calls of operators that compute (views are free).
        bytes: the sizes of their inputs and outputs, all together.
    """

    operations: int
    bytes: int

    @property
    def mean_bytes(self) -> float:
        """Bytes per operation."""
        return self.bytes / max(self.operations, 1)


def choose_vectorize(
    rule: UpdateRule,
    problem: Problem,
    runs: int,
    device: torch.device,
    *,
    mode: str = "auto",
) -> Choice:
    """Choose for several runs of a problem's kind.

    Args:
        rule: the update rule.
        problem: one of the runs' problems; the others have the same shapes.
        runs: how many.
        device: where they run.
        mode: "always" and "never" leave no choice.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    if mode != "auto":
        return Choice(mode == "always", f"vectorize={mode!r}")
    if runs == 1:
        return Choice(False, "there is one run")
    if device.type != "cpu":
        return Choice(True, f"they are on {device.type}")
    size = measure_work(rule, problem).mean_bytes
    words = f"{size / 1024:.2g} KiB an operation"
    if size < LARGEST:
        return Choice(True, f"{words}, less than {LARGEST // 1024}")
    return Choice(False, f"{words}, {LARGEST // 1024} or more")


def choose_chunk(rule: UpdateRule, problem: Problem, most: int, device: torch.device) -> int:
    """How many runs of a problem's kind to judge at once, at least 1 and at most so many.

    Args:
        rule: the update rule.
        problem: one of the runs' problems.
        most: how many at most.
        device: where they run.
    """
    if device.type != "cpu":
        return most
    return max(1, min(most, int(CHUNK / measure_work(rule, problem).mean_bytes)))


def measure_work(rule: UpdateRule, problem: Problem) -> Work:
    """Count the operations of one inner step of one run, loss, gradient and update."""
    device = next(iter(problem.parameters.values())).device
    loop = InnerLoop(rule, problem.loss, False, total_steps=1, differentiable=False, traceable=True)
    batch = problem.draw(generator("work"))
    counter = _Counter()
    with seeded(device, "work"), counter:
        loop.step(start(rule, [problem], vectorize=False), batch)
    return Work(counter.operations, counter.bytes)


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
