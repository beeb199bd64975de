"""Linear models on real data: convex problems, badly conditioned where features are correlated.

Logistic regression (Cox 1958) where targets are classes, least squares where they are numbers.
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
from meta_train.tasks.network_family import DataFamily
from meta_train.tasks.networks import make_mlp


@dataclass(frozen=True, kw_only=True)
class LogisticRegression(DataFamily):
    """One linear layer; images are flattened."""

    data: Sequence[str] = ("digits", "iris", "wine", "breast-cancer", "diabetes")

    flat: ClassVar[bool] = True

    def draw_network(
        self, data: LabelledData, generator: torch.Generator
    ) -> Callable[[], nn.Module]:
        """Nothing is left to draw."""
        sizes = (*data.shape, data.outputs)
        return functools.partial(make_mlp, sizes, nn.Identity, self.scale_spread)

    def held_out(self) -> dict[str, Task]:
        """One task on each data set."""
        return {f"{name}, linear": self.fixed(data=(name,)) for name in self.data}
