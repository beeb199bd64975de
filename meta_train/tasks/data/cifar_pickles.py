"""A safe reader for the pickled batches of CIFAR-10's Python version.

A pickle may call any function. This reader allows only those that rebuild a numpy array.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

REBUILDERS = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
}
"""Allowed functions, as old and new numpy name them, and their current location."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in REBUILDERS:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed: no array needs it")
        return super().find_class(*REBUILDERS[module, name])


def read_pickled_batch(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Read images `[M, 3, 32, 32]` and labels `[M]`, both uint8.

    Raises:
        ValueError: the content is damaged or is not such a batch.
    """
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        images = np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
        labels = np.asarray(batch[b"labels"])
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"not a batch of images ({type(error).__name__}: {error})") from error
    if len(images) != len(labels) or len(labels) == 0 or labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{len(images)} images for {len(labels)} labels, which must be 0 to 9")
    return images, labels.astype(np.uint8)
