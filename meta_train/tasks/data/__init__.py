"""Data sets by name, each in three disjoint splits: "train", "validation" and "test".

A new one is a reader in this folder and one row in `IMAGES` or `DATA`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from learned_opt.registry import look_up
from meta_train.tasks.data.digits import read_digits
from meta_train.tasks.data.image_files import IMAGE_FILES, read_images
from meta_train.tasks.data.in_memory import InMemoryDataset
from meta_train.tasks.data.photos import read_photos
from meta_train.tasks.data.tables import TABLES, read_table

SPLITS = ("train", "validation", "test")
"""For meta-training, model selection and evaluation."""

Arrays = tuple[Tensor, Tensor]
Reader = Callable[[str | None, bool], dict[str, Arrays]]
"""(folder, download) -> inputs `[M, ...]` and targets `[M]` by split."""


def _installed(read: Callable[[], dict[str, Arrays]]) -> Reader:
    return lambda folder, download: read()


def _from_files(name: str) -> Reader:
    return lambda folder, download: read_images(name, folder, download=download)


IMAGES: Mapping[str, Reader] = MappingProxyType(
    {
        "digits": _installed(read_digits),
        "photos": _installed(functools.partial(read_photos, colour=False)),
        "colour-photos": _installed(functools.partial(read_photos, colour=True)),
        **{name: _from_files(name) for name in IMAGE_FILES},
    }
)
"""Readers of images `[M, channels, height, width]`, by name."""

DATA: Mapping[str, Reader] = MappingProxyType(
    {**IMAGES, **{name: _installed(functools.partial(read_table, name)) for name in TABLES}}
)
"""All readers by name."""


@dataclass(frozen=True)
class LabelledData:
    """One split of a data set.

    Attributes:
        name: the data set's name.
        dataset: inputs `[M, ...]` and targets: classes `[M]` or numbers `[M, 1]`. Inputs and
            numeric targets have mean 0 and variance 1 over "train": tables per feature, images over
            all pixels.
        outputs: number of model outputs: the number of classes, or 1 for numeric targets.
        classes: whether targets are classes.
    """

    name: str
    dataset: InMemoryDataset
    outputs: int
    classes: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.dataset.inputs.shape[1:])

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Cross-entropy for classes, mean squared error for numbers."""
        return nn.functional.cross_entropy if self.classes else nn.functional.mse_loss


def load_data(
    name: str,
    split: str,
    *,
    folder: str | None = None,
    download: bool = False,
    flat: bool = False,
) -> LabelledData:
    """Read a split of a data set. Reading it again returns the same tensors, not a copy.

    Examples:
        >>> load_data("digits", "train").dataset.inputs.shape
        torch.Size([1000, 1, 8, 8])

    Args:
        name: a key of `DATA`.
        split: one of `SPLITS`.
        folder: the folder of data sets that are read from files. The default is the environment
            variable LEARNED_OPT_DATA.
        download: download missing files with torchvision.
        flat: flatten inputs to `[M, features]`.

    Raises:
        ValueError: an unknown name or split, or missing or damaged files.
    """
    return _load(name, split, folder, download, flat)


@functools.cache  # positional only: the cache would keep keyword calls apart
def _load(name: str, split: str, folder: str | None, download: bool, flat: bool) -> LabelledData:
    look_up("data", name, DATA)
    look_up("split", split, dict.fromkeys(SPLITS))
    if flat:
        whole = _load(name, split, folder, download, False)
        dataset = InMemoryDataset(whole.dataset.inputs.flatten(1), whole.dataset.targets, name)
        return LabelledData(name, dataset, whole.outputs, whole.classes)
    splits = DATA[name](folder, download)
    inputs, targets = splits[split]
    classes = not targets.is_floating_point()
    train, train_targets = splits["train"]
    # All pixels share one scale; each column of a table has its own.
    axes = list(range(train.dim())) if train.dim() > 2 else [0]
    inputs = _standardise(inputs, train, axes)
    if classes:
        outputs = int(torch.cat([labels for _, labels in splits.values()]).max()) + 1
    else:
        targets, outputs = _standardise(targets, train_targets, [0])[:, None], 1
    return LabelledData(name, InMemoryDataset(inputs, targets, name), outputs, classes)


def _standardise(values: Tensor, train: Tensor, axes: list[int]) -> Tensor:
    mean, spread = train.float().mean(axes, keepdim=True), train.float().std(axes, keepdim=True)
    return (values.float() - mean) / spread.clamp_min(1e-8)
