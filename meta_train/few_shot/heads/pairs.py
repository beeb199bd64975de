"""The base of classifiers that can also verify: tell whether two images have the same class."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from meta_train.few_shot.heads.base import EpisodeClassifier
from meta_train.tasks.episodes.sampler import Episode


class PairClassifier(EpisodeClassifier):
    """An episode classifier with a score of two images, for verification."""

    normalises: ClassVar[bool] = False
    """Whether the score depends on the directions of embeddings alone, not on their lengths."""

    @abstractmethod
    def pair_scores(self, support: Tensor, query: Tensor) -> Tensor:
        """Score each query image with each support image; the more alike, the higher.

        Args:
            support: embedded support images, `[support, ...]`.
            query: embedded query images, `[queries, ...]`.

        Returns:
            `[queries, support]`. Scores of different episodes can be compared.
        """

    def score_pairs(self, episode: Episode) -> Tensor:
        """Score the query images of an episode with its support images, `[queries, support]`."""
        support, query = self.embed(episode.support_x, episode.query_x)
        return self.pair_scores(support, query)
