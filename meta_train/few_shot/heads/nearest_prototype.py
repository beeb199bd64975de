"""Nearest prototype: classifies by the mean of normalised embeddings; nothing to train."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.nn.functional import normalize

from meta_train.few_shot.heads.metric import cosines, squared_distances
from meta_train.few_shot.heads.pairs import PairClassifier


@final
class CosinePrototype(PairClassifier):
    """The largest cosine with the mean of the normalised embeddings of the class."""

    normalises = True

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `EpisodeClassifier`."""
        return cosines(query, self.prototypes(normalize(support, dim=-1), labels))

    def pair_scores(self, support: Tensor, query: Tensor) -> Tensor:
        """Cosines; see `PairClassifier`."""
        return cosines(query, support)


@final
class EuclideanPrototype(PairClassifier):
    """The least distance of the normalised embedding to the mean of those of the class."""

    normalises = True

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `EpisodeClassifier`."""
        means = self.prototypes(normalize(support, dim=-1), labels)
        return -squared_distances(normalize(query, dim=-1), means)

    def pair_scores(self, support: Tensor, query: Tensor) -> Tensor:
        """Minus squared distances; see `PairClassifier`."""
        return -squared_distances(normalize(query, dim=-1), normalize(support, dim=-1))
