"""Arrays of decoded images in the user's cache folder, so that files are decoded once."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np

from learned_opt.files import expand, write_atomically


def cache_folder() -> Path:
    """The folder of cached arrays: in XDG_CACHE_HOME, by default ~/.cache.

    Raises:
        RuntimeError: the user has no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return (expand(base) if base else Path.home() / ".cache") / "learned-opt"


def cache_file(name: str, what: str) -> Path | None:
    """The file of a cached array; None, with a warning, without a home folder.

    Args:
        name: name of the file; holds a fingerprint of all that the array is made from.
        what: the data set, for the warning.
    """
    try:
        return cache_folder() / name
    except RuntimeError as error:
        warnings.warn(f"{what} is not cached: {error}", stacklevel=2)
        return None


def read_array(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The cached array, uint8, of this shape; None if there is none."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            images: np.ndarray = arrays["images"]
    except Exception:  # missing, or damaged in one of many ways: read the images again
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def write_array(path: Path, images: np.ndarray, what: str) -> None:
    """Cache an array; a failure is a warning.

    Args:
        path: the file to write.
        images: the array.
        what: the data set, for the warning.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=images)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        warnings.warn(f"{what} is not cached: {error}", stacklevel=2)
