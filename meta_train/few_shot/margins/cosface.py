"""CosFace, also known as AM-softmax: a margin of the cosine."""

from __future__ import annotations

from typing import final

from torch import Tensor

from meta_train.few_shot.margins.base import AngularMargin
from meta_train.runtime.checks import check_not_negative, check_positive


@final
class CosFace(AngularMargin):
    """The score of the own class is s (cos theta - m), of others s cos theta.

    Wang et al. 2018, arXiv 1801.09414, eq. 4; the same as AM-softmax, Wang et al. 2018, arXiv
    1801.05599, eq. 6. Embeddings are normalised.

    Args:
        classes: number of classes.
        features: size of the embedding.
        scale: s. The papers take 30 to 64 for embeddings of 512 numbers.
        margin: m.

    Raises:
        ValueError: a scale that is not positive, or a negative margin.

    Examples:
        >>> loss = CosFace(classes=100, features=64)
        >>> loss(body(images), labels, torch.tensor(0)).backward()
    """

    def __init__(
        self, *, classes: int, features: int, scale: float = 16.0, margin: float = 0.35
    ) -> None:
        check_positive(scale=scale)
        check_not_negative(margin=margin)
        super().__init__(classes=classes, features=features)
        self.scale = scale
        self.margin = margin

    def with_margin(self, cosines: Tensor, outer_step: Tensor) -> Tensor:
        """See `AngularMargin`."""
        return cosines - self.margin

    def scale_of(self, embedded: Tensor) -> float:
        """See `AngularMargin`."""
        return self.scale
