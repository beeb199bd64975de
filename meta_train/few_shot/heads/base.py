"""What all methods share that read a whole episode at once, and take no inner step."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from meta_train.tasks.episodes.networks import FewShotNetwork
from meta_train.tasks.episodes.sampler import Episode


class EpisodeMethod(nn.Module):
    """Embeds support and query images, and scores each query image for each class.

    The body's parameters have the names that they have in the network ("body.0.weight"), so that
    one initialisation serves all methods. Pure and free of branches that depend on numbers: goes
    through `torch.func.vmap` over episodes.

    Where statistics of the batch normalise, they are those of support and query images together,
    as in the training of Snell et al.'s code (its test takes running averages); with
    batch_norm="support", in evaluation mode, those of the support images alone.

    Args:
        network: its body embeds.
        features: of the body.
        ways: classes of an episode.
    """

    mixes_queries: ClassVar[bool] = False
    """Whether a query image's scores depend on the others, whatever normalises the embedding."""

    def __init__(self, network: FewShotNetwork, *, ways: int) -> None:
        super().__init__()
        self.body = network.body
        self.features = network.head.in_features
        self.ways = ways

    @property
    def solved_parameters(self) -> int:
        """How many weights are found anew for each episode."""
        return 0

    def forward(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """The loss, 0-dim, and the scores `[queries, ways]`, of an episode."""
        support, query = self.embed(episode.support_x, episode.query_x)
        scores = self.scores(support, episode.support_y, query)
        return self.loss(scores, episode.query_y), scores

    def embed(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Embed support and query images."""
        if self.training or not _keeps_statistics(self.body):
            both: Tensor = self.body(torch.cat([support, query]))
            return both[: len(support)], both[len(support) :]
        self.body.train()
        try:
            first: Tensor = self.body(support)
        finally:
            self.body.eval()
        return first, self.body(query)

    @abstractmethod
    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Score every query image for every class; the highest wins.

        Args:
            support: embedded support images, `[support, ...]`.
            labels: their classes, `[support]`.
            query: embedded query images, `[queries, ...]`.

        Returns:
            `[queries, ways]`.
        """

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The loss of the scores `[queries, ways]`: the cross-entropy, unless a method says."""
        return nn.functional.cross_entropy(scores, labels)

    def one_hot(self, labels: Tensor, like: Tensor) -> Tensor:
        """`[M, ways]`, in the dtype of `like`."""
        return nn.functional.one_hot(labels, self.ways).to(like)


def _keeps_statistics(body: nn.Module) -> bool:
    return any(getattr(module, "track_running_stats", False) for module in body.modules())
