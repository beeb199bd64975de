"""Small convolutional networks with batch normalisation (Ioffe & Szegedy 2015) on images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from meta_train.tasks.base import Task
from meta_train.tasks.data import IMAGES, LabelledData
from meta_train.tasks.draws import check_bounds, draw_int
from meta_train.tasks.network_family import DataFamily
from meta_train.tasks.networks import rescale


@dataclass(frozen=True, kw_only=True)
class Conv(DataFamily):
    """Convolutions of 3 x 3, each followed by batch normalisation and ReLU; a linear layer on top.

    Every convolution but the first halves the height and the width.

    Attributes:
        depth: least and most convolutions.
        channels: least and most channels of a convolution, drawn for each.
    """

    depth: Sequence[int] = (1, 3)
    channels: Sequence[int] = (4, 12)

    known_data: ClassVar[Sequence[str]] = tuple(IMAGES)

    def __post_init__(self) -> None:
        """See `DataFamily`."""
        super().__post_init__()
        check_bounds("depth", self.depth)
        check_bounds("channels", self.channels)
        if self.batch_size[0] < 2:
            raise ValueError(f"batch_size must be at least 2 to normalise, got {self.batch_size}")

    def draw_network(
        self, data: LabelledData, generator: torch.Generator
    ) -> Callable[[], nn.Module]:
        """Draw the channels of each convolution."""
        channels = [
            draw_int(generator, self.channels) for _ in range(draw_int(generator, self.depth))
        ]
        return functools.partial(
            _make_conv, data.shape, tuple(channels), data.outputs, self.scale_spread
        )

    def held_out(self) -> dict[str, Task]:
        """One network on each data set; then one of more channels."""
        first = self.data[0]
        within: dict[str, Any] = {"depth": (2, 2), "channels": (8, 8)}
        wider = {**within, "channels": (24, 24)}
        return {
            **{f"{name}, 8-8 channels": self.fixed(data=(name,), **within) for name in self.data},
            f"{first}, wider: 24-24 channels": self.fixed(data=(first,), **wider),
        }


def _make_conv(
    shape: Sequence[int], channels: Sequence[int], outputs: int, scale_spread: float
) -> nn.Module:
    inputs, height, width = shape
    layers: list[nn.Module] = []
    for k, count in enumerate(channels):
        stride = 1 if k == 0 else 2
        layers += [
            nn.Conv2d(inputs, count, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(count),
            nn.ReLU(),
        ]
        inputs, height, width = count, -(-height // stride), -(-width // stride)
    layers += [nn.Flatten(), nn.Linear(inputs * height * width, outputs)]
    return rescale(nn.Sequential(*layers), scale_spread)
