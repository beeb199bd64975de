"""The contract of an optimizer in the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from meta_train.evaluation.benchmark.workload import Workload

Setting: TypeAlias = Mapping[str, float]
"""Values of an optimizer's options by name."""

Built: TypeAlias = tuple[Optimizer, LRScheduler | None]
"""An optimizer, and the scheduler to step after it."""


@runtime_checkable
class HasModes(Protocol):
    """An optimizer that evaluates at other weights than it trains, such as their average."""

    def train(self) -> None:
        """Put the weights to train on in place."""

    def eval(self) -> None:
        """Put the weights to evaluate in place."""


@dataclass(frozen=True, eq=False)
class Contestant:
    """An optimizer of the benchmark.

    Attributes:
        name: key in results.
        title: name in tables and pictures.
        build: makes the optimizer and its scheduler, for a workload, a setting and the number of
            steps that it is told.
        default: the setting that needs no tuning.
        trials: settings to tune over, the likeliest first; empty if it is not to be tuned.
        rates: names of the step sizes among the options.
        told_steps: whether it uses the number of steps.
        package: the package that it comes from, if that is none of this package's own.
    """

    name: str
    title: str
    build: Callable[[Workload, Setting, int], Built]
    default: Setting
    trials: Sequence[Setting] = ()
    rates: tuple[str, ...] = ("lr",)
    told_steps: bool = True
    package: str | None = None

    def scaled(self, setting: Setting, factor: float) -> Setting:
        """The setting with every step size multiplied."""
        return {k: v * factor if k in self.rates else v for k, v in setting.items()}


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of the tensors that an optimizer keeps for its parameters."""
    return sum(
        value.nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor) and value.dim() > 0
    )
