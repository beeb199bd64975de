"""Autoencoders (Hinton & Salakhutdinov 2006): a loss without labels that stays above zero."""

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
from meta_train.tasks.draws import check_bounds, check_names, draw_choice, draw_int
from meta_train.tasks.network_family import DataFamily
from meta_train.tasks.networks import ACTIVATIONS, make_mlp


@dataclass(frozen=True, kw_only=True)
class Autoencoder(DataFamily):
    """Perceptrons `pixels - width - code - width - pixels` that give their input back.

    Attributes:
        width: least and most units of the two outer hidden layers.
        code: least and most units of the layer between them.
        activations: names, one drawn for each member.
    """

    width: Sequence[int] = (16, 48)
    code: Sequence[int] = (2, 12)
    activations: Sequence[str] = ("tanh", "relu", "gelu")

    known_data: ClassVar[Sequence[str]] = tuple(IMAGES)

    def __post_init__(self) -> None:
        """See `DataFamily`."""
        super().__post_init__()
        check_bounds("width", self.width)
        check_bounds("code", self.code)
        check_names("activation", self.activations, tuple(ACTIVATIONS))

    def load(self, name: str) -> LabelledData:
        """Flat images, which are their own targets."""
        return _to_itself(name, self.split, self.folder, self.download)

    def draw_network(
        self, data: LabelledData, generator: torch.Generator
    ) -> Callable[[], nn.Module]:
        """Draw the hidden layers' sizes and an activation."""
        width, code = draw_int(generator, self.width), draw_int(generator, self.code)
        activation = ACTIVATIONS[draw_choice(generator, self.activations)]
        sizes = (*data.shape, width, code, width, data.outputs)
        return functools.partial(make_mlp, sizes, activation, self.scale_spread)

    def held_out(self) -> dict[str, Task]:
        """One network on each data set; then a wider one."""
        first = self.data[0]
        within: dict[str, Any] = {"width": (32, 32), "code": (8, 8), "activations": ("tanh",)}
        wider = {**within, "width": (96, 96), "code": (16, 16)}
        return {
            **{f"{name}, tanh 32-8-32": self.fixed(data=(name,), **within) for name in self.data},
            f"{first}, wider: tanh 96-16-96": self.fixed(data=(first,), **wider),
        }


@functools.cache
def _to_itself(name: str, split: str, folder: str | None, download: bool) -> LabelledData:
    inputs = load_data(name, split, folder=folder, download=download, flat=True).rows.inputs
    return LabelledData(name, InMemoryDataset(inputs, inputs, name), inputs.shape[1], classes=False)
