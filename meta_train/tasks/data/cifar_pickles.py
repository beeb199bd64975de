"""A safe reader for the pickled batches of CIFAR-10's Python version.

A pickle may call any function, and numpy's own ones crash Python where their arguments are crafted.
This reader calls none of them: it takes an array's bytes from the pickle and checks their number.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np


class _Kind:
    """Stands for `numpy.ndarray`, which a pickle may name but not call."""


class _Bytes:
    """Stands for `numpy.dtype`; only unsigned bytes are known."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError("an array does not consist of unsigned bytes")

    def __setstate__(self, state: Any) -> None:
        """Ignore the byte order and fields, which single bytes do not have."""


class _Array:
    """Stands for an array that `_reconstruct` begins and its state fills."""

    def __init__(self, *_: Any) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        """Read (version, shape, dtype, whether the order is Fortran's, bytes)."""
        _, shape, dtype, fortran, content = state
        if type(dtype) is not _Bytes or type(content) is not bytes:
            raise pickle.UnpicklingError("an array does not consist of unsigned bytes")
        if not all(type(size) is int and size >= 0 for size in shape) or len(shape) != 2:
            raise pickle.UnpicklingError("an array has not two sizes")
        if math.prod(shape) != len(content):
            raise pickle.UnpicklingError(f"an array of {shape} has {len(content)} bytes")
        values = np.frombuffer(content, np.uint8)
        self.values = values.reshape(shape[::-1]).T if fortran else values.reshape(shape)


STANDINS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Kind(),
    ("numpy", "dtype"): _Bytes,
}
"""Stand-ins for the functions that rebuild an array, by the names of old and new numpy."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STANDINS:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed: no array needs it"[:200])
        return STANDINS[module, name]


def read_pickled_batch(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Read images `[M, 3, 32, 32]` and labels `[M]`, both uint8.

    Raises:
        ValueError: the content is damaged or is not such a batch.
    """
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        images, labels = batch[b"data"].values, batch[b"labels"]
        if not all(type(label) is int and 0 <= label <= 9 for label in labels):
            raise ValueError("labels must be 0 to 9")
        images = images.reshape(len(labels), 3, 32, 32)
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"not a batch of images ({type(error).__name__}: {error})") from error
    if not labels:
        raise ValueError("0 images")
    return images, np.array(labels, np.uint8)
