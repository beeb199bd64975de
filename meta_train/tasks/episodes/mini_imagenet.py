"""miniImageNet: few-shot classification, and ordinary classification of its training classes."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meta_train.tasks.data.mini_imagenet import SIZE, read_mini_imagenet
from meta_train.tasks.episodes.images import ImageClasses, ImageEpisodes, ImageSource
from meta_train.tasks.episodes.networks import FewShotNetwork, make_shaped_network


@dataclass(frozen=True, kw_only=True)
class _MiniImageNetSettings(ImageSource):
    folder: str | None = None
    download: bool = False
    hidden: int = 32
    pool: str = "flatten"

    title: ClassVar[str] = "miniImageNet"
    image_shape: ClassVar[tuple[int, int, int]] = (3, SIZE, SIZE)

    def check_names(self) -> None:
        if self.download:
            raise ValueError("miniImageNet cannot be downloaded: ImageNet asks who you are")
        super().check_names()

    def make_network(self, outputs: int) -> FewShotNetwork:
        return make_shaped_network(
            self.architecture,
            self.image_shape,
            outputs,
            hidden=self.hidden,
            pool=self.pool,
            batch_norm=self.batch_norm,
            halve="max-pool",
        )

    def images(self) -> Tensor:
        """Images of the split, `[classes, 600, 3, 84, 84]`, uint8."""
        return read_split(self.folder, self.split)


@dataclass(frozen=True, kw_only=True)
class MiniImageNetEpisodes(_MiniImageNetSettings, ImageEpisodes):
    """N-way K-shot episodes of photographs, in the splits of Ravi & Larochelle 2017.

    Attributes:
        folder: the folder of the official files; see
            `meta_train.tasks.data.mini_imagenet.read_mini_imagenet`.
        download: not possible for this data set.
        hidden: channels of conv4: 32 as in MAML, or 64 as in prototypical networks.
        pool: "flatten" (the papers') or "mean".

    Examples:
        >>> MiniImageNetEpisodes(ways=5, shots=1, split="test", folder="data")
    """


@dataclass(frozen=True, kw_only=True)
class MiniImageNetClasses(_MiniImageNetSettings, ImageClasses):
    """Ordinary supervised training on all classes of a split."""


@functools.lru_cache(maxsize=4)
def read_split(folder: str | None, split: str) -> Tensor:
    """Read the images of a split; see `read_mini_imagenet`."""
    return torch.from_numpy(read_mini_imagenet(split, folder))
