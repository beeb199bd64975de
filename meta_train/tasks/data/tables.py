"""Small tables: scikit-learn's toy data sets, installed with it.

Iris (Fisher 1936), wine (Forina et al. 1991) and breast cancer (Wolberg et al. 1995) have classes
as targets; diabetes (Efron et al. 2004) has numbers.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

TABLES = {
    "iris": "load_iris",
    "wine": "load_wine",
    "breast-cancer": "load_breast_cancer",
    "diabetes": "load_diabetes",
}
"""scikit-learn's loaders by name."""

SHARES = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}
"""First and last row of each split, as fractions of all rows."""


@functools.cache
def read_table(name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Features `[M, F]` and targets `[M]` by split, shuffled with a fixed seed."""
    from sklearn import datasets

    features, targets = getattr(datasets, TABLES[name])(return_X_y=True)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    inputs, answers = torch.from_numpy(features)[order], torch.from_numpy(targets)[order]
    answers = answers.double() if name == "diabetes" else answers.long()
    bounds = {
        split: (round(a * len(order)), round(b * len(order))) for split, (a, b) in SHARES.items()
    }
    return {split: (inputs[a:b], answers[a:b]) for split, (a, b) in bounds.items()}
