"""Random quadratics, the first problem of Andrychowicz et al. 2016 (section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from meta_train.tasks.base import Batch, Problem, Task, Tensors


class Quadratic(Task):
    """f(theta) = |W theta - y|^2, W and y drawn from a normal distribution for each problem.

    Args:
        dimensions: size of theta, y and W's sides.

    Raises:
        ValueError: fewer than one dimension.
    """

    def __init__(self, *, dimensions: int = 10) -> None:
        if dimensions < 1:
            raise ValueError(f"dimensions must be at least 1, got {dimensions}")
        self.dimensions = dimensions

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw W, y and the initial theta (normal)."""
        n = self.dimensions
        w = torch.randn(n, n, generator=generator).to(device)
        y = torch.randn(n, generator=generator).to(device)
        theta = torch.randn(n, generator=generator).to(device)
        return Problem({"theta": theta}, {}, self.loss, lambda _: (w, y), lambda: (w, y))

    @staticmethod
    def loss(parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The squared residual; `batch` is (W, y)."""
        w, y = batch
        return (w @ parameters["theta"] - y).square().sum(), buffers
