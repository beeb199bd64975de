"""Linear models on real data: convex problems, ill-conditioned if features are correlated.

Logistic regression (Cox 1958) if targets are classes, least squares if they are numbers.
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
from meta_train.tasks.families.networks import make_mlp


@dataclass(frozen=True, kw_only=True)
class LogisticRegression(DataFamily):
    """One linear layer. Images are flattened."""

    data: Sequence[str] = ("digits", "iris", "wine", "breast-cancer", "diabetes")

    flat: ClassVar[bool] = True

    def sample_network(
        self, data: LabelledData, generator: torch.Generator
    ) -> Callable[[], nn.Module]:
        """Return the linear layer; draws nothing."""
        sizes = (*data.shape, data.outputs)
        return functools.partial(make_mlp, sizes, nn.Identity, self.scale_spread)

    def held_out(self) -> dict[str, Task]:
        """One task on each data set."""
        return {f"{name}, linear": self.fixed_task(data=(name,)) for name in self.data}
