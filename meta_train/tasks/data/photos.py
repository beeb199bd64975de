"""Patches of two photographs: scikit-learn's `load_sample_images`, installed with it.

The photographs are china.jpg and flower.jpg, 427 x 640 pixels in colour. The task is to tell which
of 4 x 4 regions of the photograph a patch of 8 x 8 pixels comes from. It is harder than digits: sky
looks alike in several regions, and small networks stay far from a loss of zero.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

SIZE = 8
"""Side of a patch in pixels."""

BLOCK = 24
"""Side of a block in pixels. Patches of a block may overlap and belong to one split."""

STRIDE = 4
GRID = 4
TRAIN_SHARE = 0.8


@functools.cache
def read_photos(*, colour: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """Patches `[M, 1 or 3, 8, 8]` and their regions `[M]`, 0 to 15, by split.

    "train" and "validation" come from china.jpg and share no pixel; "test" comes from flower.jpg.
    The pixels of each photograph have mean 0 and variance 1.
    """
    from sklearn.datasets import load_sample_images

    china, flower = (_standardised(torch.tensor(image)) for image in load_sample_images().images)
    rows, columns = (size // BLOCK for size in china.shape[:2])
    random = torch.Generator().manual_seed(0)
    trained_on = torch.rand(rows, columns, generator=random) < TRAIN_SHARE
    return {
        "train": _patches(china, trained_on, colour),
        "validation": _patches(china, ~trained_on, colour),
        "test": _patches(flower, torch.ones_like(trained_on), colour),
    }


def _standardised(photo: Tensor) -> Tensor:
    # Per photograph, because flower.jpg is much darker than china.jpg.
    return (photo.float() - photo.float().mean()) / photo.float().std()


def _patches(photo: Tensor, blocks: Tensor, colour: bool) -> tuple[Tensor, Tensor]:
    """Patches of the blocks that a boolean mask `[rows, columns]` selects, and their regions."""
    pixels = photo.permute(2, 0, 1) if colour else photo.mean(2)[None]
    height, width = photo.shape[:2]
    offsets = range(0, BLOCK - SIZE + 1, STRIDE)
    patches, regions = [], []
    for row, column in blocks.nonzero().tolist():
        for y in (row * BLOCK + offset for offset in offsets):
            for x in (column * BLOCK + offset for offset in offsets):
                patches.append(pixels[:, y : y + SIZE, x : x + SIZE])
                across = (x + SIZE // 2) * GRID // width
                regions.append((y + SIZE // 2) * GRID // height * GRID + across)
    return torch.stack(patches), torch.tensor(regions)
