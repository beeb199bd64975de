"""Handwritten digits: scikit-learn's `load_digits`, installed with it.

1797 grey images of 8 x 8 pixels (Alpaydin & Kaynak 1998, UCI).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

SPLITS = {"train": (0, 1000), "validation": (1000, 1400), "test": (1400, 1797)}
"""First and last image of each split, after shuffling."""


@functools.cache
def read_digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Images `[M, 1, 8, 8]` in [0, 1] and labels `[M]` by split, shuffled with a fixed seed."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = (torch.from_numpy(data.data).float() / 16)[order].reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(data.target).long()[order]
    return {split: (images[a:b], labels[a:b]) for split, (a, b) in SPLITS.items()}
