"""SphereFace: a margin that multiplies the angle."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor
from torch.linalg import vector_norm

from meta_train.few_shot.margins.base import AngularMargin
from meta_train.runtime.checks import check_at_least, check_not_negative


@final
class SphereFace(AngularMargin):
    """The score of the own class is |x| psi(theta), of others |x| cos theta.

    psi(theta) = (-1)^k cos(m theta) - 2 k where k pi / m <= theta <= (k + 1) pi / m, k from 0 to
    m - 1 (Liu et al. 2017, arXiv 1704.08063, eq. 6 and 7). Embeddings keep their length.

    Training begins near plain cosines, because psi alone does not converge: the score of the own
    class is |x| (lambda cos theta + psi(theta)) / (1 + lambda), and lambda falls with the outer
    step t as max(floor, start / (1 + decay t)). The defaults are those of the released code.

    cos(m theta) is the Chebyshev polynomial T_m of cos theta, which has derivatives everywhere.

    Args:
        classes: number of classes.
        features: size of the embedding.
        margin: m, a whole number.
        start: lambda at the first outer step.
        decay: how fast lambda falls.
        floor: the least lambda.

    Raises:
        ValueError: a margin that is not a whole number of at least 1, or a negative number.

    Examples:
        >>> loss = SphereFace(classes=100, features=64)
        >>> loss(body(images), labels, torch.tensor(0)).backward()
    """

    def __init__(
        self,
        *,
        classes: int,
        features: int,
        margin: int = 4,
        start: float = 1000.0,
        decay: float = 0.12,
        floor: float = 5.0,
    ) -> None:
        if margin % 1 != 0:  # also of infinity
            raise ValueError(f"margin must be a whole number, got {margin}")
        check_at_least(1, margin=margin)
        check_not_negative(start=start, decay=decay, floor=floor)
        super().__init__(classes=classes, features=features)
        self.margin = int(margin)
        self.start = start
        self.decay = decay
        self.floor = floor

    def with_margin(self, cosines: Tensor, outer_step: Tensor) -> Tensor:
        """See `AngularMargin`."""
        weight = self.weight_of_cosine(outer_step)
        return (weight * cosines + self.psi(cosines)) / (1 + weight)

    def psi(self, cosines: Tensor) -> Tensor:
        """The function psi, which falls from 1 to 1 - 2 m as theta goes from 0 to pi.

        Args:
            cosines: cos theta.
        """
        # k counts the bounds j pi / m, j from 1 to m - 1, that theta has passed.
        k = torch.zeros_like(cosines)
        for j in range(1, self.margin):
            k = k + (cosines < math.cos(j * math.pi / self.margin))
        sign = 1 - 2 * k.remainder(2)
        return sign * chebyshev(self.margin, cosines) - 2 * k

    def weight_of_cosine(self, outer_step: Tensor) -> Tensor:
        """Lambda at an outer step, 0-dim."""
        growth = 1 + self.decay * outer_step.float()
        return torch.clamp_min(self.start / growth, self.floor)

    def scale_of(self, embedded: Tensor) -> Tensor:
        """See `AngularMargin`."""
        lengths: Tensor = vector_norm(embedded, dim=-1, keepdim=True)
        return lengths


def chebyshev(degree: int, x: Tensor) -> Tensor:
    """The Chebyshev polynomial T_degree: T_n(cos theta) = cos(n theta). `degree` is at least 1."""
    before, value = torch.ones_like(x), x
    for _ in range(degree - 1):
        before, value = value, 2 * x * value - before
    return value
