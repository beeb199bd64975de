"""Handwritten digits: the file behind scikit-learn's `load_digits`, installed with it.

1797 grey images of 8 x 8 pixels (Alpaydin & Kaynak 1998, UCI).
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SPLITS = {"train": (0, 1000), "validation": (1000, 1400), "test": (1400, 1797)}
"""First and last image of each split, after shuffling."""


@functools.cache
def read_digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Images `[M, 1, 8, 8]` in [0, 1] and labels `[M]` by split, shuffled with a fixed seed."""
    rows = torch.from_numpy(_read_rows())
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    images = (rows[:, :-1].float() / 16)[order].reshape(-1, 1, 8, 8)
    labels = rows[:, -1].long()[order]
    return {split: (images[a:b], labels[a:b]) for split, (a, b) in SPLITS.items()}


def _read_rows() -> NDArray[np.float64]:
    """64 pixels from 0 to 16 and the label of each image, `[1797, 65]`.

    scikit-learn is not imported if its file is where it usually is: that takes a second or more in
    each process.
    """
    spec = find_spec("sklearn")
    for folder in [] if spec is None else spec.submodule_search_locations or []:
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.column_stack([pixels, labels])
