"""Find the official files of data sets and check that they are complete."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Sequence
from pathlib import Path

from learned_opt.files import expand

FOLDER_VARIABLE = "LEARNED_OPT_DATA"
"""The environment variable that names the default folder."""


def data_folder(folder: str | None, what: str) -> Path:
    """The folder to read from: the given one, else that of the environment variable.

    Raises:
        ValueError: neither is set, or it is not a folder.
    """
    chosen = folder or os.environ.get(FOLDER_VARIABLE)
    if not chosen:
        raise ValueError(f"{what} is read from files: give folder, or set {FOLDER_VARIABLE}")
    path = expand(chosen)  # a shell does not expand the ~ in --folder=~/data
    if path.is_file():
        raise ValueError(f"{what}: {path} is a file: give the folder that contains it")
    if not path.is_dir():
        raise ValueError(f"{what}: there is no folder {path}")
    return path


def find(folder: Path, places: Sequence[str], names: Sequence[str]) -> Path | None:
    """The first of `names` found in one of the subfolders `places` of `folder`, or None."""
    paths = (folder / place / name for name in names for place in places)
    return next((path for path in paths if path.exists()), None)


def missing(what: str, names: Sequence[str], folder: Path, page: str) -> FileNotFoundError:
    """The error for a file that `find` did not find."""
    return FileNotFoundError(
        f"{what}: there is no {' or '.join(names)} in {folder}; it is published at {page}"
    )


def check(path: Path, content: bytes, md5: str | None, page: str) -> None:
    """Compare a file's content with its published md5; None skips the check.

    Raises:
        ValueError: the checksums differ.
    """
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 is not None and actual != md5:
        raise ValueError(
            f"{path} is damaged, cut short or not the official file: {len(content)} bytes with "
            f"md5 {actual}, not {md5}; it is published at {page}"
        )


def damaged(path: Path, why: object, page: str) -> ValueError:
    """The error for a file with invalid content."""
    line = (str(why).splitlines() or [type(why).__name__])[0]
    return ValueError(f"{path} is damaged: {line}; the official file is published at {page}")


def fetch(data_set: str, folder: Path, splits: Sequence[dict[str, bool]]) -> None:
    """Download a data set into `folder` with torchvision.

    Args:
        data_set: name of torchvision's class.
        folder: the folder to write to.
        splits: the class's arguments for each part.

    Raises:
        ValueError: torchvision is not installed.
    """
    try:
        datasets = importlib.import_module("torchvision.datasets")
    except ImportError:
        raise ValueError(
            f"download=True needs torchvision to fetch {data_set}: install it, or put the "
            f"official files into {folder}"
        ) from None
    for split in splits:
        getattr(datasets, data_set)(root=str(folder), download=True, **split)
