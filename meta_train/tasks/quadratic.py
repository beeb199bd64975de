"""Random quadratics, the first problem of Andrychowicz et al. 2016 (section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from meta_train.tasks.base import Batch, Problem, Task, Tensors


class Quadratic(Task):
    """f(theta) = |W theta - y|^2, W and y drawn from a normal distribution for each problem.

    Args:
        dimensions: size of theta, y and W's sides.
        condition: the ratio of the largest to the smallest eigenvalue of W^T W, which lie evenly
            in the logarithm between the two, and have the mean of those of a normal W. None
            leaves W as it is drawn.

    Raises:
        ValueError: fewer than one dimension, or a condition below 1.
    """

    def __init__(self, *, dimensions: int = 10, condition: float | None = None) -> None:
        if dimensions < 1:
            raise ValueError(f"dimensions must be at least 1, got {dimensions}")
        if condition is not None and not 1 <= condition < float("inf"):
            raise ValueError(f"condition must be at least 1 and finite, got {condition}")
        self.dimensions = dimensions
        self.condition = condition

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw W, y and the initial theta (normal)."""
        n = self.dimensions
        w = self._conditioned(torch.randn(n, n, generator=generator)).to(device)
        y = torch.randn(n, generator=generator).to(device)
        theta = torch.randn(n, generator=generator).to(device)
        return Problem({"theta": theta}, {}, self.loss, lambda _: (w, y), lambda: (w, y))

    def _conditioned(self, w: Tensor) -> Tensor:
        """W with its directions as they are, and the singular values that were asked for."""
        if self.condition is None:
            return w
        n = self.dimensions
        eigenvalues = self.condition ** -torch.linspace(0, 1, n, dtype=torch.float64)
        eigenvalues *= n / eigenvalues.mean()  # E |W|^2 is n^2
        left, _, right = torch.linalg.svd(w.double())
        conditioned: Tensor = left * eigenvalues.sqrt() @ right
        return conditioned.float()

    @staticmethod
    def loss(parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The squared residual; `batch` is (W, y)."""
        w, y = batch
        return (w @ parameters["theta"] - y).square().sum(), buffers
