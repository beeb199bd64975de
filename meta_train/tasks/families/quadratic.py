"""Random quadratics (Andrychowicz et al. 2016, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from meta_train.runtime.checks import check_at_least
from meta_train.tasks.base import Batch, Problem, Task, Tensors


class Quadratic(Task):
    """f(theta) = |W theta - y|^2, with W and y drawn from a normal distribution for each problem.

    Args:
        dimensions: n, for theta `[n]`, y `[n]` and W `[n, n]`.
        condition: condition number of W^T W. Its eigenvalues are spaced evenly in the logarithm and
            have the mean that they have for a normal W. None keeps W as it is drawn.

    Raises:
        ValueError: fewer than one dimension, or a condition below 1.
    """

    def __init__(self, *, dimensions: int = 10, condition: float | None = None) -> None:
        check_at_least(1, dimensions=dimensions)
        if condition is not None and not 1 <= condition < float("inf"):
            raise ValueError(f"condition must be at least 1 and finite, got {condition}")
        self.dimensions = dimensions
        self.condition = condition

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw W, y and the initial theta from a normal distribution."""
        n = self.dimensions
        w = self._conditioned(torch.randn(n, n, generator=generator)).to(device)
        y = torch.randn(n, generator=generator).to(device)
        theta = torch.randn(n, generator=generator).to(device)
        return Problem({"theta": theta}, {}, self.loss, lambda _: (w, y), lambda: (w, y))

    def _conditioned(self, w: Tensor) -> Tensor:
        """W with the same singular vectors and the eigenvalues that `condition` asks for."""
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
        """The squared residual. The batch is (W, y)."""
        w, y = batch
        return (w @ parameters["theta"] - y).square().sum(), buffers
