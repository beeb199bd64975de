"""MLPs of random shape on small real data: the broad family to meta-train on.

A rule generalises to other networks only if it has seen many widths, depths, activations, batch
sizes, initial scales and data set sizes (Metz et al. 2022, arXiv 2211.09760, section 3.1).
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
from meta_train.tasks.families.network_family import DataFamily
from meta_train.tasks.families.networks import ACTIVATIONS, make_mlp
from meta_train.tasks.families.sampling import check_names, check_range, sample_choice, sample_int


@dataclass(frozen=True, kw_only=True)
class RandomMLP(DataFamily):
    """MLPs of random shape. Images are flattened.

    Attributes:
        depth: range of the number of hidden layers.
        width: range of the units, drawn for each hidden layer.
        activations: names of activations; each task draws one.
    """

    depth: Sequence[int] = (1, 3)
    width: Sequence[int] = (12, 32)
    activations: Sequence[str] = ("tanh", "relu", "gelu")

    flat: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """See `DataFamily`."""
        super().__post_init__()
        check_range("depth", self.depth)
        check_range("width", self.width)
        check_names("activation", self.activations, tuple(ACTIVATIONS))

    def sample_network(
        self, data: LabelledData, generator: torch.Generator
    ) -> Callable[[], nn.Module]:
        """Draw the hidden layers and an activation."""
        hidden = [
            sample_int(generator, self.width) for _ in range(sample_int(generator, self.depth))
        ]
        activation = ACTIVATIONS[sample_choice(generator, self.activations)]
        sizes = (*data.shape, *hidden, data.outputs)
        return functools.partial(make_mlp, sizes, activation, self.scale_spread)

    def held_out(self) -> dict[str, Task]:
        """A ReLU network on each data set, a wider one, and one with another activation."""
        first = self.data[0]
        within = {"depth": (3, 3), "width": (32, 32), "activations": ("relu",)}
        wider, other = {**within, "width": (96, 96)}, {**within, "activations": ("silu",)}
        return {
            **{
                f"{name}, ReLU 32-32-32": self.fixed_task(data=(name,), **within)
                for name in self.data
            },
            f"{first}, wider: ReLU 96-96-96": self.fixed_task(data=(first,), **wider),
            f"{first}, SiLU 32-32-32": self.fixed_task(data=(first,), **other),
        }
