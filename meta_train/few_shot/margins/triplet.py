"""The triplet loss with semi-hard negatives."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.nn.functional import normalize

from meta_train.few_shot.heads.metric import squared_distances
from meta_train.few_shot.margins.base import MarginLoss
from meta_train.runtime.checks import check_at_least, check_positive


@final
class Triplet(MarginLoss):
    """Mean over pairs (a, p) of one class of max(0, d(a, p) - d(a, n) + margin).

    Schroff et al. 2015 (FaceNet), arXiv 1503.03832, eq. 3, with d the squared Euclidean distance of
    normalised embeddings. All ordered pairs (anchor, positive) of a class in the batch count. The
    negative n is the semi-hard one that is nearest: the nearest image of another class that is
    farther from the anchor than the positive (section 3.2; farther by more than the margin it adds
    nothing). If no image of another class is farther, the farthest one is taken; the paper does not
    say.

    Args:
        classes: number of classes; the loss has no weights and does not use it.
        features: size of the embedding; not used either.
        margin: the margin, between squared distances of 0 to 4.
        drawings: images of each class in a batch.

    Raises:
        ValueError: a margin that is not positive, or fewer than 2 drawings.

    Examples:
        >>> loss = Triplet(classes=100, features=64)
        >>> loss(body(images), labels, torch.tensor(0)).backward()
    """

    def __init__(
        self, *, classes: int, features: int, margin: float = 0.2, drawings: int = 4
    ) -> None:
        super().__init__()
        # Without a margin an embedding that is the same for all images has no loss.
        check_positive(margin=margin)
        if int(drawings) != drawings:
            raise ValueError(f"drawings must be a whole number, got {drawings}")
        check_at_least(2, drawings=drawings)
        self.margin = margin
        self._drawings = int(drawings)

    @property
    def drawings(self) -> int:
        """See `MarginLoss`."""
        return self._drawings

    def forward(self, embedded: Tensor, labels: Tensor, outer_step: Tensor) -> Tensor:
        """See `MarginLoss`. Every class has at least 2 images in the batch, and there are 2."""
        units = normalize(embedded, dim=-1)
        distances = squared_distances(units, units)
        same = labels.unsqueeze(1) == labels.unsqueeze(0)
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        positive = (same & ~itself).to(distances)
        # [anchor, positive, negative]: distances of negatives, repeated for each positive.
        others = distances.masked_fill(same, torch.inf).unsqueeze(1)
        farther = others.masked_fill(others <= distances.unsqueeze(2), torch.inf).amin(-1)
        farthest = distances.masked_fill(same, -torch.inf).amax(-1, keepdim=True)
        negative = torch.where(farther.isfinite(), farther, farthest)
        losses = (distances - negative + self.margin).relu()
        return (positive * losses).sum() / positive.sum()
