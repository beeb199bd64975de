"""ArcFace: a margin of the angle."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from meta_train.few_shot.margins.base import AngularMargin
from meta_train.runtime.checks import check_not_negative, check_positive

EPSILON = 1e-12
"""Least squared sine: a square root has no derivative at 0, and rounding lets cosines exceed 1."""


@final
class ArcFace(AngularMargin):
    """The score of the own class is s cos(theta + m), of others s cos theta.

    Deng et al. 2019, arXiv 1801.07698, eq. 3. Embeddings are normalised. cos(theta + m) rises again
    where theta > pi - m. There the score is s (cos theta - m sin m), as in the released code, which
    goes on falling.

    cos(theta + m) is computed as cos theta cos m - sin theta sin m. The derivative of an arc cosine
    is infinite at cosines of 1 and -1.

    Args:
        classes: number of classes.
        features: size of the embedding.
        scale: s. The paper takes 64 for embeddings of 512 numbers.
        margin: m, in radians.

    Raises:
        ValueError: a scale that is not positive, or a margin that is negative or pi and more.

    Examples:
        >>> loss = ArcFace(classes=100, features=64)
        >>> loss(body(images), labels, torch.tensor(0)).backward()
    """

    def __init__(
        self, *, classes: int, features: int, scale: float = 16.0, margin: float = 0.5
    ) -> None:
        check_positive(scale=scale)
        check_not_negative(margin=margin)
        if not margin < math.pi:
            raise ValueError(f"margin must be less than pi, got {margin}")
        super().__init__(classes=classes, features=features)
        self.scale = scale
        self.margin = margin

    def with_margin(self, cosines: Tensor, outer_step: Tensor) -> Tensor:
        """See `AngularMargin`."""
        # (1 - c) (1 + c) and not 1 - c^2, which loses all digits of small angles.
        sines = ((1 - cosines) * (1 + cosines)).clamp_min(EPSILON).sqrt()
        moved = cosines * math.cos(self.margin) - sines * math.sin(self.margin)
        beyond = cosines - self.margin * math.sin(self.margin)
        return torch.where(cosines > -math.cos(self.margin), moved, beyond)

    def scale_of(self, embedded: Tensor) -> float:
        """See `AngularMargin`."""
        return self.scale
