"""Small convolutional networks, with batch normalisation (Ioffe & Szegedy 2015) or without."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from meta_train.tasks.base import Task
from meta_train.tasks.data import IMAGES, LabelledData
from meta_train.tasks.families.network_family import DataFamily
from meta_train.tasks.families.networks import rescale
from meta_train.tasks.families.sampling import check_range, sample_int


@dataclass(frozen=True, kw_only=True)
class Conv(DataFamily):
    """3 x 3 convolutions, each with ReLU, and a linear layer on top.

    Convolutions after the first have stride 2.

    Attributes:
        depth: range of the number of convolutions.
        channels: range of the channels, drawn for each convolution.
        normalize: put batch normalisation after each convolution; else it has a bias.
    """

    depth: Sequence[int] = (1, 3)
    channels: Sequence[int] = (4, 12)
    normalize: bool = True

    supported_data: ClassVar[Sequence[str]] = tuple(IMAGES)

    def __post_init__(self) -> None:
        """See `DataFamily`."""
        super().__post_init__()
        check_range("depth", self.depth)
        check_range("channels", self.channels)
        if self.normalize and self.batch_size[0] < 2:
            raise ValueError(
                f"batch_size must be at least 2 for batch normalisation, got {self.batch_size}"
            )

    def sample_network(
        self, data: LabelledData, generator: torch.Generator
    ) -> Callable[[], nn.Module]:
        """Draw the channels of each convolution."""
        channels = [
            sample_int(generator, self.channels) for _ in range(sample_int(generator, self.depth))
        ]
        return functools.partial(
            _make_conv,
            data.shape,
            tuple(channels),
            data.outputs,
            self.scale_spread,
            normalize=self.normalize,
        )

    def held_out(self) -> dict[str, Task]:
        """One network on each data set, and a network with more channels."""
        first = self.data[0]
        within: dict[str, Any] = {"depth": (2, 2), "channels": (8, 8)}
        wider = {**within, "channels": (24, 24)}
        return {
            **{
                f"{name}, 8-8 channels": self.fixed_task(data=(name,), **within)
                for name in self.data
            },
            f"{first}, wider: 24-24 channels": self.fixed_task(data=(first,), **wider),
        }


def _make_conv(
    shape: Sequence[int],
    channels: Sequence[int],
    outputs: int,
    scale_spread: float,
    *,
    normalize: bool,
) -> nn.Module:
    inputs, height, width = shape
    layers: list[nn.Module] = []
    for k, count in enumerate(channels):
        stride = 1 if k == 0 else 2
        layers += [
            nn.Conv2d(inputs, count, 3, stride=stride, padding=1, bias=not normalize),
            *([nn.BatchNorm2d(count)] if normalize else []),
            nn.ReLU(),
        ]
        inputs, height, width = count, -(-height // stride), -(-width // stride)
    layers += [nn.Flatten(), nn.Linear(inputs * height * width, outputs)]
    return rescale(nn.Sequential(*layers), scale_spread)
