"""Multi-layer perceptrons of random shape on small real data: the broad family to train on.

Random widths, depths, activations, batch sizes, initial scales and amounts of data are what a rule
needs to see to carry over to other networks (Metz et al. 2022, arXiv 2211.09760, section 3.1).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from meta_train.tasks.base import Task
from meta_train.tasks.data import LabelledData
from meta_train.tasks.draws import check_bounds, check_names, draw_choice, draw_int
from meta_train.tasks.network_family import DataFamily
from meta_train.tasks.networks import ACTIVATIONS, make_mlp


@dataclass(frozen=True, kw_only=True)
class RandomMLP(DataFamily):
    """Perceptrons of random shape; images are flattened.

    Attributes:
        depth: least and most hidden layers.
        width: least and most units of a hidden layer, drawn for each layer.
        activations: names, one drawn for each member.
    """

    depth: Sequence[int] = (1, 3)
    width: Sequence[int] = (12, 32)
    activations: Sequence[str] = ("tanh", "relu", "gelu")

    flat: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """See `DataFamily`."""
        super().__post_init__()
        check_bounds("depth", self.depth)
        check_bounds("width", self.width)
        check_names("activation", self.activations, tuple(ACTIVATIONS))

    def draw_network(
        self, data: LabelledData, generator: torch.Generator
    ) -> Callable[[], nn.Module]:
        """Draw hidden layers and an activation."""
        hidden = [draw_int(generator, self.width) for _ in range(draw_int(generator, self.depth))]
        activation = ACTIVATIONS[draw_choice(generator, self.activations)]
        sizes = (*data.shape, *hidden, data.outputs)
        return functools.partial(make_mlp, sizes, activation, self.scale_spread)

    def held_out(self) -> dict[str, Task]:
        """A network with ReLU on each data set; a wider one, and one with another activation."""
        first = self.data[0]
        within = {"depth": (3, 3), "width": (32, 32), "activations": ("relu",)}
        wider, other = {**within, "width": (96, 96)}, {**within, "activations": ("silu",)}
        return {
            **{f"{name}, ReLU 32-32-32": self.fixed(data=(name,), **within) for name in self.data},
            f"{first}, wider: ReLU 96-96-96": self.fixed(data=(first,), **wider),
            f"{first}, SiLU 32-32-32": self.fixed(data=(first,), **other),
        }
