"""A task of the benchmark: a model, its data, a loss, and a number of steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch: TypeAlias = tuple[Tensor, ...]
"""Tensors of the same length, such as inputs and targets."""

FIXED = 1024
"""Training examples of the fixed set on which the training loss is measured, or all if fewer."""


@dataclass(frozen=True)
class Workload:
    """A model with new weights, and the data to train it on.

    Attributes:
        model: the model, in training mode.
        train: training data, `[N, ...]` each.
        test: data that is not trained on, `[M, ...]` each.
        loss: the mean loss of the model on a batch, 0-dim.
        error: the test figure on a batch, 0-dim; lower is better.
        tied: the output layer is an embedding; otherwise it is the model's last matrix.
        measured: most training examples on which the training loss is measured.
    """

    model: nn.Module
    train: Batch
    test: Batch
    loss: Callable[[nn.Module, Batch], Tensor]
    error: Callable[[nn.Module, Batch], Tensor]
    tied: bool = False
    measured: int = FIXED

    def hidden(self) -> list[nn.Parameter]:
        """Matrices and kernels that are neither embeddings nor the output layer."""
        tables = {id(m.weight) for m in self.model.modules() if isinstance(m, nn.Embedding)}
        found = [p for p in self.model.parameters() if p.dim() >= 2 and id(p) not in tables]
        return found if self.tied else found[:-1]

    def fixed(self) -> Batch:
        """The training examples on which the training loss is measured."""
        return tuple(values[: self.measured] for values in self.train)


@dataclass(frozen=True)
class BenchmarkTask:
    """A task: equal seeds give equal initial weights and equal batches to every optimizer.

    Attributes:
        name: key in results.
        title: name in tables and pictures.
        make: builds the workload; its weights come from torch's global generator.
        steps: training steps.
        batch: examples of a batch; None trains on all data in every step.
        error: what the test figure is: "error rate" or "loss".
        large: a run takes about a minute; small tasks take some ten seconds.
    """

    name: str
    title: str
    make: Callable[[], Workload]
    steps: int
    batch: int | None
    error: str = "error rate"
    large: bool = False


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy over examples, and over positions where there are some."""
    inputs, targets = batch
    return F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())


def error_rate(model: nn.Module, batch: Batch) -> Tensor:
    """Share of examples whose class is not the most probable one."""
    inputs, targets = batch
    wrong: Tensor = model(inputs).argmax(-1) != targets
    return wrong.float().mean()


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error."""
    inputs, targets = batch
    return F.mse_loss(model(inputs), targets)


def parameter_count(model: nn.Module) -> int:
    """Number of trained numbers; tied weights count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def has_batch_norm(model: nn.Module) -> bool:
    """Whether running statistics have to be recomputed for evaluation."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return any(isinstance(module, kinds) for module in model.modules())


def classification(
    model: nn.Module, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> Workload:
    """A workload of classes: cross-entropy, and the error rate."""
    return Workload(model, train, test, cross_entropy, error_rate)


def regression(
    model: nn.Module, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> Workload:
    """A workload of numbers: the mean squared error, in training and in testing."""
    return Workload(model, train, test, squared_error, squared_error)


def split(values: tuple[Tensor, Tensor], test: int) -> tuple[Batch, Batch]:
    """The data without its last `test` examples, and those."""
    return tuple(v[:-test] for v in values), tuple(v[-test:] for v in values)


def standardised(values: Tensor) -> Tensor:
    """Every column with mean 0 and variance 1."""
    return ((values - values.mean(0)) / values.std(0)).to(torch.float32)
