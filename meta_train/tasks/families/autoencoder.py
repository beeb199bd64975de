"""MLP autoencoders (Hinton & Salakhutdinov 2006): no labels, and a loss that stays above zero."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from meta_train.tasks.base import Task
from meta_train.tasks.data import IMAGES, LabelledData, load_data
from meta_train.tasks.data.in_memory import InMemoryDataset
from meta_train.tasks.families.network_family import DataFamily
from meta_train.tasks.families.networks import ACTIVATIONS, make_mlp
from meta_train.tasks.families.sampling import check_names, check_range, sample_choice, sample_int


@dataclass(frozen=True, kw_only=True)
class Autoencoder(DataFamily):
    """MLPs of sizes pixels - width - code - width - pixels that reconstruct their input.

    Attributes:
        width: range of the units of the two outer hidden layers.
        code: range of the units of the layer between them.
        activations: names of activations; each task draws one.
    """

    width: Sequence[int] = (16, 48)
    code: Sequence[int] = (2, 12)
    activations: Sequence[str] = ("tanh", "relu", "gelu")

    supported_data: ClassVar[Sequence[str]] = tuple(IMAGES)

    def __post_init__(self) -> None:
        """See `DataFamily`."""
        super().__post_init__()
        check_range("width", self.width)
        check_range("code", self.code)
        check_names("activation", self.activations, tuple(ACTIVATIONS))

    def load(self, name: str) -> LabelledData:
        """Read flat images, which are their own targets."""
        return _images_as_targets(name, self.split, self.folder, self.download)

    def sample_network(
        self, data: LabelledData, generator: torch.Generator
    ) -> Callable[[], nn.Module]:
        """Draw the sizes of the hidden layers and an activation."""
        width, code = sample_int(generator, self.width), sample_int(generator, self.code)
        activation = ACTIVATIONS[sample_choice(generator, self.activations)]
        sizes = (*data.shape, width, code, width, data.outputs)
        return functools.partial(make_mlp, sizes, activation, self.scale_spread)

    def held_out(self) -> dict[str, Task]:
        """One network on each data set, and a wider network."""
        first = self.data[0]
        within: dict[str, Any] = {"width": (32, 32), "code": (8, 8), "activations": ("tanh",)}
        wider = {**within, "width": (96, 96), "code": (16, 16)}
        return {
            **{
                f"{name}, tanh 32-8-32": self.fixed_task(data=(name,), **within)
                for name in self.data
            },
            f"{first}, wider: tanh 96-16-96": self.fixed_task(data=(first,), **wider),
        }


@functools.cache
def _images_as_targets(name: str, split: str, folder: str | None, download: bool) -> LabelledData:
    inputs = load_data(name, split, folder=folder, download=download, flat=True).dataset.inputs
    return LabelledData(name, InMemoryDataset(inputs, inputs, name), inputs.shape[1], classes=False)
