"""miniImageNet (Vinyals et al. 2016) in the class splits of Ravi & Larochelle 2017.

The official files are three tables, train.csv, val.csv and test.csv, with the columns filename and
label: 64, 16 and 20 classes of ImageNet, 600 images of each. The images lie in a folder `images`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from learned_opt.registry import look_up
from meta_train.runtime.progress import progress_bar
from meta_train.tasks.data.archives import damaged, data_folder, find, missing
from meta_train.tasks.data.array_cache import cache_file, read_array, write_array

PAGE = "github.com/twitter-research/meta-learning-lstm (tables), image-net.org (images)"
PLACES = (".", "miniimagenet", "mini-imagenet", "miniImageNet", "mini-ImageNet", "mini_imagenet")
TABLES = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
CLASSES = {"train": 64, "validation": 16, "test": 20}
SIZE = 84
"""Side of an image in pixels, as in the papers."""
MAX_IMAGE = 2**27
"""Largest file of an image in bytes."""


def read_mini_imagenet(
    split: str, folder: str | None = None, *, progress: bool = True
) -> np.ndarray:
    """Read the images of a split, sorted by class and then by file name.

    Images of other sizes are resized to 84 x 84 pixels (Lanczos, as in the code of Finn et al.
    2017). The array is cached in the user's cache folder.

    Args:
        split: "train", "validation" or "test".
        folder: the folder of the files. The default is the environment variable LEARNED_OPT_DATA.
        progress: show a progress bar during the first reading.

    Returns:
        `[classes, images per class, 3, 84, 84]`, uint8.

    Raises:
        FileNotFoundError: a table or an image is missing; the message says where it is published.
        ValueError: a damaged table or image, or not the official number of classes.

    Examples:
        >>> read_mini_imagenet("test", "data").shape
        (20, 600, 3, 84, 84)
    """
    name = look_up("split", split, TABLES)
    where = data_folder(folder, "miniImageNet")
    table = find(where, PLACES, (name,))
    if table is None:
        raise missing("miniImageNet", (name,), where, PAGE)
    by_class = _read_table(table, split)
    _check_disjoint(table, by_class)
    images = table.parent / "images"
    if not images.is_dir():
        raise missing("miniImageNet", ("images",), table.parent, PAGE)
    paths = {label: [images / file for file in files] for label, files in by_class.items()}
    for files in paths.values():
        for path in files:
            if not path.is_file():
                raise missing("miniImageNet", (path.name,), images, PAGE)
    return _cached(split, paths, progress)


def _rows(table: Path) -> list[dict[str, str]]:
    """The rows of a table by the names of its columns; spreadsheets write a mark of UTF-8 first."""
    try:
        reader = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig")))
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise damaged(table, error, PAGE) from error
    if not {"filename", "label"} <= set(reader.fieldnames or ()):
        raise damaged(table, "its first line does not name the columns filename and label", PAGE)
    return rows


def _check_disjoint(table: Path, by_class: Mapping[str, list[str]]) -> None:
    """Refuse classes and images that a table of another split has, too: a test would be trained on.

    Raises:
        ValueError: names the other table.
    """
    files = {file for of_class in by_class.values() for file in of_class}
    for name in TABLES.values():
        other = table.parent / name
        if other.name == table.name or not other.is_file():
            continue
        for row in _rows(other):
            if row["label"] in by_class:
                raise damaged(table, f"class {row['label']} is in {other.name}, too", PAGE)
            if row["filename"] in files:
                raise damaged(table, f"{row['filename']} is in {other.name}, too", PAGE)


def _read_table(table: Path, split: str) -> dict[str, list[str]]:
    """Sorted file names by class."""
    rows = _rows(table)
    by_class: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 2):
        file, label = row.get("filename"), row.get("label")
        if not file or not label:
            raise damaged(table, f"line {number} has no filename and label", PAGE)
        if Path(file).name != file:
            raise damaged(table, f"line {number}: {file!r} is no plain file name", PAGE)
        by_class.setdefault(label, []).append(file)
    if len(by_class) != CLASSES[split]:
        raise damaged(table, f"it has {len(by_class)} classes, not {CLASSES[split]}", PAGE)
    sizes = {label: len(files) for label, files in by_class.items()}
    least, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    if sizes[least] != sizes[most]:
        why = f"{least} has {sizes[least]} images and {most} has {sizes[most]}"
        raise damaged(table, why, PAGE)
    if len({file for files in by_class.values() for file in files}) != len(rows):
        raise damaged(table, "a file name is there twice", PAGE)
    return {label: sorted(by_class[label]) for label in sorted(by_class)}


def _cached(split: str, paths: Mapping[str, list[Path]], progress: bool) -> np.ndarray:
    files = [path for of_class in paths.values() for path in of_class]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(repr(stats).encode()).hexdigest()[:16]
    cache = cache_file(f"miniimagenet-{split}-{SIZE}-{key}.npz", "miniImageNet")
    shape = (len(paths), len(files) // len(paths), 3, SIZE, SIZE)
    images = None if cache is None else read_array(cache, shape)
    if images is None:
        images = np.empty((len(files), *shape[2:]), np.uint8)
        terminal = sys.stderr is not None and sys.stderr.isatty()
        show = progress and terminal
        with progress_bar(
            len(files), "image", show=show, desc=f"reading miniImageNet, {split}"
        ) as bar:
            for row, path in enumerate(files):
                images[row] = _decode(path)
                bar.update(1)
        images = images.reshape(shape)
        if cache is not None:
            write_array(cache, images, "miniImageNet")
    return images


def _decode(path: Path) -> np.ndarray:
    """An image `[3, 84, 84]`, uint8."""
    from PIL import Image, UnidentifiedImageError  # of the extra "meta"

    if path.stat().st_size > MAX_IMAGE:
        raise damaged(path, f"it has {path.stat().st_size} bytes", PAGE)
    try:
        with Image.open(path) as opened:
            if opened.mode.startswith(("I", "F")):  # Pillow would cut all values to 255
                raise ValueError(f"its pixels have more than 8 bits (mode {opened.mode})")
            image = opened.convert("RGB")
    except Exception as error:  # Pillow raises many types for a broken image
        why = "no image" if isinstance(error, UnidentifiedImageError) else error
        raise damaged(path, why, PAGE) from error
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(image).transpose(2, 0, 1)
