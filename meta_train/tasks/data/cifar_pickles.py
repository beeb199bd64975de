"""The batches of CIFAR-10's Python version, read without running what a pickle can hold.

A pickle may call any function. These may call what rebuilds a numpy array, and nothing else.
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
"""What such a pickle names, and where numpy has it now."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in REBUILDERS:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which no array needs")
        return super().find_class(*REBUILDERS[module, name])


def read_pickled_batch(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images `[M, 3, 32, 32]` and labels `[M]`, uint8.

    Raises:
        ValueError: damaged, or not such a batch.
    """
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        images = np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
        labels = np.asarray(batch[b"labels"])
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"not a batch of images ({type(error).__name__}: {error})") from error
    if len(images) != len(labels) or len(labels) == 0 or labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{len(images)} images for {len(labels)} labels, which must be 0 to 9")
    return images, labels.astype(np.uint8)
