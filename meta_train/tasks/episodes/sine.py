"""Few-shot regression of sine waves (Finn et al. 2017, arXiv 1703.03400, section 5.1)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from meta_train.tasks.base import Batch, Tensors
from meta_train.tasks.episodes.base import HEAD, EpisodeTask

STD = 0.01
"""Standard deviation of initial weights, truncated at two of them, as in the released code."""


class SineNetwork(nn.Module):
    """An MLP with ReLU, `[points, 1] -> [points, 1]`. The last layer is the head.

    Args:
        hidden: units of the hidden layers.
    """

    def __init__(self, hidden: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise((1, *hidden)):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear((1, *hidden)[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the curve."""
        curve: Tensor = self.head(self.body(x))
        return curve


@dataclass(frozen=True, kw_only=True)
class Sine(EpisodeTask):
    """Learn y = A sin(x - phase) from `shots` points. The loss is the mean squared error.

    Attributes:
        shots: points in the support set.
        queries: points in the query set.
        fresh: see `EpisodeTask`.
        amplitude: bounds of A, which is uniform.
        phase: bounds of the phase, which is uniform.
        domain: bounds of x, which is uniform.
        hidden: units of the hidden layers.
    """

    shots: int = 10
    queries: int = 10
    fresh: str = "all"
    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, math.pi)
    domain: tuple[float, float] = (-5.0, 5.0)
    hidden: tuple[int, ...] = (40, 40)

    metric: ClassVar[str] = "MSE"

    def __post_init__(self) -> None:
        """Check the settings and convert lists to tuples."""
        super().__post_init__()
        for name in ("amplitude", "phase", "domain"):
            bounds = tuple(getattr(self, name))
            if len(bounds) != 2 or not -math.inf < bounds[0] <= bounds[1] < math.inf:
                raise ValueError(f"{name} must be two ordered, finite bounds, got {bounds}")
            object.__setattr__(self, name, bounds)
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be sizes of at least 1, got {self.hidden}")

    def build(self) -> nn.Module:
        """See `EpisodeTask`."""
        return SineNetwork(self.hidden)

    def draw_parameters(self, generator: torch.Generator, *, head_only: bool) -> Tensors:
        """Draw weights from a truncated normal distribution; biases are zero."""
        named = {
            name: value.shape
            for name, value in self.network.named_parameters()
            if not head_only or name.startswith(HEAD)
        }
        sizes = [shape.numel() if len(shape) > 1 else 0 for shape in named.values()]
        # All tensors in one call: one by one would take longer than an inner step.
        drawn = torch.empty(sum(sizes))
        nn.init.trunc_normal_(drawn, std=STD, a=-2 * STD, b=2 * STD, generator=generator)
        return {
            name: part.reshape(shape) if len(part) else torch.zeros(shape)
            for (name, shape), part in zip(named.items(), drawn.split(sizes), strict=True)
        }

    def draw_episode(
        self,
        generator: torch.Generator,
        device: torch.device,
        identity: torch.Generator | None = None,
    ) -> tuple[Batch, Batch]:
        """Draw a curve, and its points x and y, `[points, 1]` each."""
        amplitude, phase = self.draw_curve(generator if identity is None else identity)
        low, high = self.domain
        x = low + (high - low) * torch.rand(self.shots + self.queries, 1, generator=generator)
        y = amplitude * torch.sin(x - phase)
        x, y = x.to(device), y.to(device)
        return (x[: self.shots], y[: self.shots]), (x[self.shots :], y[self.shots :])

    def draw_curve(self, generator: torch.Generator) -> tuple[float, float]:
        """Draw amplitude and phase. They are the first draws of an episode."""
        a, p = torch.rand(2, generator=generator).tolist()
        (least, most), (first, last) = self.amplitude, self.phase
        return least + (most - least) * a, first + (last - first) * p

    def loss_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error."""
        return nn.functional.mse_loss(outputs, targets)

    def score_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error."""
        return nn.functional.mse_loss(outputs, targets)
