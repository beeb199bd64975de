"""The standard few-shot networks for images of any size."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from learned_opt.registry import look_up
from meta_train.runtime.checks import check_at_least
from meta_train.tasks.episodes.networks import (
    BATCH_NORMS,
    DENSE_SIZES,
    POOLS,
    FewShotNetwork,
    LastBatchNorm1d,
    LastBatchNorm2d,
    MeanPool,
)

HALVINGS = ("stride", "max-pool")
BLOCKS = 4
ARCHITECTURES: Mapping[str, None] = dict.fromkeys(("conv4", "dense"))


def make_shaped_network(
    name: str,
    shape: tuple[int, int, int],
    outputs: int,
    *,
    hidden: int = 64,
    pool: str = "flatten",
    batch_norm: str = "batch",
    halve: str = "stride",
) -> FewShotNetwork:
    """Build a network for images of a shape.

    "conv4" has four blocks of 3 x 3 convolution, batch normalisation and ReLU, each of which halves
    height and width: by a stride of 2, rounded up (Finn et al. 2017 on Omniglot), or by 2 x 2
    max-pooling, rounded down (on miniImageNet: 84, 42, 21, 10, 5). "dense" has layers of 256, 128,
    64 and 64 units, each with batch normalisation and ReLU, and ignores `hidden`, `pool` and
    `halve`.

    Args:
        name: "conv4" or "dense".
        shape: channels, height and width of an image.
        outputs: number of outputs of the head.
        hidden: channels of conv4.
        pool: "mean" over the last map, or "flatten".
        batch_norm: "batch" or "support"; see `meta_train.tasks.episodes.networks.make_network`.
        halve: "stride" or "max-pool".

    Raises:
        ValueError: an unknown name, hidden < 1, or images too small for four halvings.
    """
    look_up("network", name, ARCHITECTURES)
    look_up("pool", pool, dict.fromkeys(POOLS))
    look_up("batch_norm", batch_norm, dict.fromkeys(BATCH_NORMS))
    look_up("way to halve", halve, dict.fromkeys(HALVINGS))
    check_at_least(1, hidden=hidden)
    if name == "dense":
        return FewShotNetwork(_dense(math.prod(shape), batch_norm), DENSE_SIZES[-1], outputs)
    layers = _blocks(shape[0], hidden, batch_norm, halve)
    places = math.prod(_side_after(side, halve) for side in shape[1:])
    if not places:
        raise ValueError(f"images of {shape[1]} x {shape[2]} are too small to pool four times")
    if pool == "mean":
        return FewShotNetwork(nn.Sequential(*layers, MeanPool()), hidden, outputs, places)
    body = nn.Sequential(*layers, nn.Flatten())
    return FewShotNetwork(body, places * hidden, outputs, places)


def _blocks(channels: int, hidden: int, batch_norm: str, halve: str) -> list[nn.Module]:
    layers: list[nn.Module] = []
    stride = 2 if halve == "stride" else 1
    for inputs in (channels, *[hidden] * (BLOCKS - 1)):
        layers += [
            nn.Conv2d(inputs, hidden, 3, stride=stride, padding=1),
            LastBatchNorm2d(hidden)
            if batch_norm == "support"
            else nn.BatchNorm2d(hidden, track_running_stats=False),
            nn.ReLU(),
        ]
        if halve == "max-pool":
            layers.append(nn.MaxPool2d(2))
    return layers


def _side_after(side: int, halve: str) -> int:
    for _ in range(BLOCKS):
        side = side // 2 if halve == "max-pool" else -(-side // 2)
    return side


def _dense(pixels: int, batch_norm: str) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, units in zip((pixels, *DENSE_SIZES), DENSE_SIZES, strict=False):
        layers += [
            nn.Linear(inputs, units),
            LastBatchNorm1d(units)
            if batch_norm == "support"
            else nn.BatchNorm1d(units, track_running_stats=False),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)
