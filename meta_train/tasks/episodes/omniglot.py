"""Omniglot: few-shot classification, and ordinary classification of all characters."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from learned_opt.registry import look_up
from meta_train.tasks.data.omniglot import read_omniglot
from meta_train.tasks.episodes.images import ImageClasses, ImageEpisodes, ImageSource
from meta_train.tasks.episodes.networks import FewShotNetwork, make_network
from meta_train.tasks.episodes.sampler import rotated
from meta_train.tasks.episodes.splits import SPLIT_BY, split_characters

PARTS = {"background": ("background",), "all": ("background", "evaluation")}
"""Published sets to read: the 30 background alphabets, or all 50 alphabets."""


@dataclass(frozen=True, kw_only=True)
class _OmniglotSettings(ImageSource):
    folder: str | None = None
    part: str = "background"
    split_by: str = "alphabet"
    rotations: bool = True
    download: bool = False

    title: ClassVar[str] = "Omniglot"
    image_shape: ClassVar[tuple[int, int, int]] = (1, 28, 28)

    def check_names(self) -> None:
        look_up("part of Omniglot", self.part, PARTS)
        look_up("way to split", self.split_by, dict.fromkeys(SPLIT_BY))
        super().check_names()

    def make_network(self, outputs: int) -> FewShotNetwork:
        return make_network(
            self.architecture,
            outputs,
            hidden=self.hidden,
            pool=self.pool,
            batch_norm=self.batch_norm,
        )

    def images(self) -> Tensor:
        """Images of the split, `[classes, 20, 28, 28]`, uint8, with rotated classes if set."""
        return read_split(
            self.folder, self.part, self.split, self.split_by, self.rotations, self.download
        )


@dataclass(frozen=True, kw_only=True)
class OmniglotEpisodes(_OmniglotSettings, ImageEpisodes):
    """N-way K-shot episodes of characters. The loss is the cross-entropy.

    The files are read when the first episode is drawn.

    Examples:
        The papers' protocol, 5-way 1-shot::

            OmniglotEpisodes(ways=5, shots=1, part="all", split_by="character", folder="data")

    Attributes:
        ways: classes per episode.
        shots: support images per class.
        queries: query images per class.
        folder: the folder of the archives; see `meta_train.tasks.data.omniglot.read_omniglot`.
        part: "background", or "all" for the papers' protocol.
        split: "train", "validation" or "test".
        split_by: "alphabet" or "character"; see `meta_train.tasks.episodes.splits`.
        rotations: add characters rotated by 90, 180 and 270 degrees as classes of their own.
        download: download missing files with torchvision.
        architecture: "conv4" or "dense"; see `meta_train.tasks.episodes.networks.make_network`.
        hidden: channels of conv4.
        pool: "mean" or "flatten"; see there.
        batch_norm: "batch" (transductive) or "support"; see there.
    """


@dataclass(frozen=True, kw_only=True)
class OmniglotClasses(_OmniglotSettings, ImageClasses):
    """Ordinary supervised training on all characters of a split.

    The settings of the characters are those of `OmniglotEpisodes`.

    Attributes:
        batch_size: images per batch, drawn with replacement.
    """


@functools.lru_cache(maxsize=8)
def read_split(
    folder: str | None, part: str, split: str, split_by: str, rotations: bool, download: bool
) -> Tensor:
    """Read the images of a split, `[classes, 20, 28, 28]`, uint8; see `OmniglotEpisodes`."""
    parts = [read_omniglot(name, folder, download=download) for name in PARTS[part]]
    alphabets = [name for read in parts for name in read.alphabets]
    characters = [name for read in parts for name in read.characters]
    chosen = split_characters(alphabets, characters, split, split_by)
    images = torch.cat([torch.from_numpy(read.images) for read in parts])[chosen]
    return rotated(images) if rotations else images
