"""Tasks on tables: scikit-learn's, and generated ones."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from meta_train.evaluation.benchmark.tasks import models
from meta_train.evaluation.benchmark.workload import (
    Batch,
    Workload,
    classification,
    regression,
    split,
    standardised,
)
from meta_train.tasks.data.tables import read_table

EXAMPLES = 41_000
"""Examples of generated tables, so many that small networks do not learn the noise by heart."""

ROWS, COLUMNS = 16_000, 16_000
"""Size of the rating matrix."""


def _whole_table(name: str) -> tuple[Tensor, Tensor]:
    """All features, standardised, and targets."""
    parts = read_table(name).values()
    features, targets = (torch.cat([part[k] for part in parts]) for k in (0, 1))
    return standardised(features), targets


def diabetes() -> Workload:
    """Regression of the progress of diabetes (Efron et al. 2004): 10-8-1, 442 patients."""
    features, targets = _whole_table("diabetes")
    train, test = split((features, standardised(targets[:, None])), 90)
    return regression(models.mlp((10, 8, 1), nn.SiLU), (train[0], train[1]), (test[0], test[1]))


def breast_cancer() -> Workload:
    """Logistic regression on 30 features that say nearly the same (Wolberg et al. 1995)."""
    train, test = split(_whole_table("breast-cancer"), 114)
    return classification(nn.Linear(30, 2), (train[0], train[1]), (test[0], test[1]))


@functools.cache
def _friedman() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    x = torch.rand(EXAMPLES, 10, generator=random)
    y = 10 * (math.pi * x[:, 0] * x[:, 1]).sin() + 20 * (x[:, 2] - 0.5).square()
    y = y + 10 * x[:, 3] + 5 * x[:, 4] + 0.3 * torch.randn(EXAMPLES, generator=random)
    return standardised(x), standardised(y[:, None])


def friedman() -> Workload:
    """Regression of Friedman's first function (1991) with noise: 10-64-64-1."""
    train, test = split(_friedman(), 1000)
    return regression(models.mlp((10, 64, 64, 1)), (train[0], train[1]), (test[0], test[1]))


@functools.cache
def _teacher() -> tuple[Tensor, Tensor]:
    """Classes of a random network, a tenth of them replaced by random ones."""
    random = torch.Generator().manual_seed(2)
    x = torch.randn(EXAMPLES, 20, generator=random)
    first = torch.randn(20, 24, generator=random)
    second = torch.randn(24, 6, generator=random)
    classes = (torch.tanh(x @ first) @ second).argmax(1)
    other = torch.randint(6, (EXAMPLES,), generator=random)
    wrong = torch.rand(EXAMPLES, generator=random) < 0.1
    return x, torch.where(wrong, other, classes)


def teacher() -> Workload:
    """Classification by a random network's answers, a tenth of them random: 20-64-64-6."""
    train, test = split(_teacher(), 1000)
    return classification(
        models.mlp((20, 64, 64, 6), nn.GELU), (train[0], train[1]), (test[0], test[1])
    )


@functools.cache
def _ratings() -> tuple[Tensor, Tensor]:
    """Pairs `[M, 2]` of a row and a column, some far more frequent, and noisy ratings `[M]`."""
    random = torch.Generator().manual_seed(3)
    count = 300_000
    frequent = torch.rand(count, 2, generator=random) ** 3
    pairs = (frequent * torch.tensor([ROWS, COLUMNS])).long()
    factors = [torch.randn(size, 3, generator=random) for size in (ROWS, COLUMNS)]
    products = (factors[0][pairs[:, 0]] * factors[1][pairs[:, 1]]).sum(1) / 3**0.5
    return pairs, products + 0.3 * torch.randn(count, generator=random)


def ratings() -> Workload:
    """Factorisation of a matrix of 16,000 x 16,000 ratings: 1.1 million parameters."""
    train: Batch
    train, test = split(_ratings(), 2000)
    return regression(models.Factors(ROWS, COLUMNS, 32), (train[0], train[1]), (test[0], test[1]))
