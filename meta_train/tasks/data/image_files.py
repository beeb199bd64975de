"""MNIST, Fashion-MNIST and CIFAR-10 from their official files.

MNIST: LeCun et al. 1998. Fashion-MNIST: Xiao et al. 2017 (arXiv 1708.07747). CIFAR-10: Krizhevsky
2009. Archives and pickles must have their published checksums. Other unpacked files are checked by
their structure.
"""

from __future__ import annotations

import functools
import gzip
import io
import math
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from learned_opt.registry import look_up
from meta_train.tasks.data.archives import check, damaged, data_folder, fetch, find, missing
from meta_train.tasks.data.cifar_pickles import read_pickled_batch

CHECKSUMS: dict[str, str] = {
    "mnist/train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "mnist/train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "mnist/t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "mnist/t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    "fashion-mnist/train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "fashion-mnist/train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "fashion-mnist/t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "fashion-mnist/t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    "cifar-10/cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10/cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "cifar-10/data_batch_1": "c99cafc152244af753f735de768cd75f",
    "cifar-10/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "cifar-10/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "cifar-10/data_batch_4": "634d18415352ddfa80567beed471001a",
    "cifar-10/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "cifar-10/test_batch": "40351d587109b95175f43aff81a1287e",
}
"""md5 by data set and file."""

PAGES = {
    "mnist": "yann.lecun.com/exdb/mnist",
    "fashion-mnist": "github.com/zalandoresearch/fashion-mnist",
    "cifar-10": "cs.toronto.edu/~kriz/cifar.html",
}

VALIDATION_SHARE = 1 / 6
"""Fraction of the official training images, the last ones, that become "validation"."""

Arrays = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ImageFiles:
    """How to read a data set.

    Attributes:
        torchvision: name of torchvision's class, which downloads it.
        places: subfolders of the data folder to search. The data set's own folder comes first,
            because MNIST and Fashion-MNIST have the same file names.
        read: (name, folder, places, train) -> images `[M, C, H, W]` and labels `[M]`, uint8.
    """

    torchvision: str
    places: Sequence[str]
    read: Callable[[str, Path, Sequence[str], bool], Arrays]


@functools.cache
def read_images(
    name: str, folder: str | None = None, *, download: bool = False
) -> dict[str, tuple[Tensor, Tensor]]:
    """Read images `[M, channels, height, width]`, uint8, and labels `[M]` by split.

    "train" and "validation" are parts of the official training images; "test" is the official test
    set.

    Args:
        name: a key of `IMAGE_FILES`.
        folder: the folder of the files. The default is the environment variable LEARNED_OPT_DATA.
        download: download missing files with torchvision.

    Raises:
        FileNotFoundError: a file is missing; the message says where it is published.
        ValueError: a file is damaged, or there is no folder.
    """
    source = look_up("data", name, IMAGE_FILES)
    where = data_folder(folder, name)
    try:
        train, test = _read_train_and_test(name, source, where)
    except FileNotFoundError:
        if not download:
            raise
        fetch(source.torchvision, where, [{"train": True}, {"train": False}])
        train, test = _read_train_and_test(name, source, where)
    images, labels = (torch.from_numpy(array) for array in train)
    first = len(labels) - math.ceil(len(labels) * VALIDATION_SHARE)
    return {
        "train": (images[:first], labels[:first].long()),
        "validation": (images[first:], labels[first:].long()),
        "test": (torch.from_numpy(test[0]), torch.from_numpy(test[1]).long()),
    }


def _read_train_and_test(name: str, source: ImageFiles, folder: Path) -> tuple[Arrays, Arrays]:
    """Read images and labels to train on, and to test on."""
    train, test = (source.read(name, folder, source.places, part) for part in (True, False))
    return train, test


def _read_mnist(name: str, folder: Path, places: Sequence[str], train: bool) -> Arrays:
    prefix = "train" if train else "t10k"
    images, path = _read_idx(name, f"{prefix}-images-idx3-ubyte", 3, folder, places)
    labels, labels_path = _read_idx(name, f"{prefix}-labels-idx1-ubyte", 1, folder, places)
    if len(images) != len(labels) or len(labels) == 0 or labels.max() > 9:
        why = f"{len(images)} images in {path.name} for {len(labels)} labels, which must be 0 to 9"
        raise damaged(labels_path, why, PAGES[name])
    return images[:, None], labels


def _read_idx(
    name: str, stem: str, axes: int, folder: Path, places: Sequence[str]
) -> tuple[np.ndarray, Path]:
    """Read an IDX file: bytes 0, 0, 8 (unsigned byte), number of axes; sizes; values."""
    names = (f"{stem}.gz", stem)
    path = find(folder, places, names)
    if path is None:
        raise missing(name, names, folder, PAGES[name])
    content = path.read_bytes()
    if path.suffix == ".gz":
        check(path, content, CHECKSUMS.get(f"{name}/{path.name}"), PAGES[name])
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise damaged(path, error, PAGES[name]) from error
    header = 4 + 4 * axes
    if content[:4] != bytes((0, 0, 8, axes)) or len(content) < header:
        raise damaged(path, f"it starts with {content[:4].hex()}, not 000008{axes:02}", PAGES[name])
    shape = np.frombuffer(content[4:header], ">u4").tolist()
    if len(content) - header != math.prod(shape):  # an array's product would overflow
        why = f"{len(content) - header} values, but the header says {' x '.join(map(str, shape))}"
        raise damaged(path, why, PAGES[name])
    return np.frombuffer(content[header:], np.uint8).reshape(shape).copy(), path


CIFAR_FORMS = {
    "cifar-10-binary.tar.gz": "cifar-10-batches-bin",
    "cifar-10-python.tar.gz": "cifar-10-batches-py",
}
"""Archives and the folders inside them."""


def _read_cifar(name: str, folder: Path, places: Sequence[str], train: bool) -> Arrays:
    names = [form for pair in CIFAR_FORMS.items() for form in pair]
    path = find(folder, places, names)
    if path is None:
        raise missing(name, names, folder, PAGES[name])
    binary = path.name in list(CIFAR_FORMS.items())[0]
    batches = [f"data_batch_{k}" for k in range(1, 6)] if train else ["test_batch"]
    contents = _cifar_contents(
        name, path, [f"{batch}.bin" if binary else batch for batch in batches]
    )
    parse = _parse_binary_batch if binary else read_pickled_batch
    parts = []
    for inside, content in contents:
        try:
            parts.append(parse(content))
        except ValueError as error:
            raise damaged(inside, error, PAGES[name]) from error
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _cifar_contents(name: str, path: Path, files: Sequence[str]) -> list[tuple[Path, bytes]]:
    """Paths and contents of files in an archive or in the folder that was unpacked from it."""
    if path.is_dir():
        for file in files:
            if not (path / file).is_file():
                raise missing(name, [file], path, PAGES[name])
        contents = [(path / file, (path / file).read_bytes()) for file in files]
        for inside, content in contents:
            check(inside, content, CHECKSUMS.get(f"{name}/{inside.name}"), PAGES[name])
        return contents
    content = path.read_bytes()
    check(path, content, CHECKSUMS.get(f"{name}/{path.name}"), PAGES[name])
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            found = {Path(member.name).name: member for member in archive if member.isfile()}
            absent = [file for file in files if file not in found]
            if absent:
                raise damaged(path, f"{absent[0]} is not in it", PAGES[name])
            streams = {file: archive.extractfile(found[file]) for file in files}
            return [(path / file, stream.read()) for file, stream in streams.items() if stream]
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise damaged(path, error, PAGES[name]) from error


def _parse_binary_batch(content: bytes) -> Arrays:
    """Parse images stored as a label, then 1024 red, 1024 green and 1024 blue values."""
    size = 1 + 3 * 32 * 32
    if not content or len(content) % size:
        raise ValueError(f"{len(content)} bytes are not a number of images of {size}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, size)
    if rows[:, 0].max() > 9:
        raise ValueError(f"a label is {rows[:, 0].max()}, not 0 to 9")
    return rows[:, 1:].reshape(-1, 3, 32, 32).copy(), rows[:, 0].copy()


IMAGE_FILES: dict[str, ImageFiles] = {
    "mnist": ImageFiles("MNIST", ("mnist", "MNIST", "MNIST/raw", "."), _read_mnist),
    "fashion-mnist": ImageFiles(
        "FashionMNIST",
        ("fashion-mnist", "FashionMNIST", "FashionMNIST/raw", "data/fashion", "."),
        _read_mnist,
    ),
    "cifar-10": ImageFiles("CIFAR10", (".", "cifar-10", "CIFAR10"), _read_cifar),
}
"""Data sets by name."""
