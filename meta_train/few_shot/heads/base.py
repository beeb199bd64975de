"""The base of classifiers that read a whole episode at once and take no inner step."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from meta_train.tasks.episodes.networks import FewShotNetwork
from meta_train.tasks.episodes.sampler import Episode

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class EpisodeClassifier(nn.Module):
    """An embedding and a head that classify the query images from the support images.

    Parameters of the body have the names of the few-shot network ("body.0.weight"), so one
    initialisation fits all methods. The code is pure and has no branch that depends on values: it
    runs under `torch.func.vmap` over episodes.

    With batch_norm="batch", support and query images are normalised together, as in the training
    code of Snell et al. (which tests with running averages). With batch_norm="support" and in
    evaluation mode, the support set alone gives the statistics.

    Args:
        network: its body is the embedding.
        ways: classes per episode (N).
    """

    mixes_queries: ClassVar[bool] = False
    """Whether the head itself makes the scores of a query image depend on other query images."""

    def __init__(self, network: FewShotNetwork, *, ways: int) -> None:
        super().__init__()
        self.body = network.body
        self.features = network.head.in_features
        self.ways = ways

    @property
    def solved_parameters(self) -> int:
        """Number of weights that are solved for in each episode."""
        return 0

    def forward(self, episode: Episode, *noise: Tensor) -> tuple[Tensor, Tensor]:
        """Classify the query images of an episode.

        Args:
            episode: the images and their classes.
            *noise: the episode's random numbers; see `draw_noise`.

        Returns:
            The loss, 0-dim, and the scores, `[queries, ways]`.
        """
        support, query = self.embed(episode.support_x, episode.query_x)
        return self.classify(support, episode.support_y, query, episode.query_y, *noise)

    def classify(
        self, support: Tensor, labels: Tensor, query: Tensor, wanted: Tensor, *noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Classify embedded query images.

        Args:
            support: embedded support images, `[support, ...]`.
            labels: their classes, `[support]`.
            query: embedded query images, `[queries, ...]`.
            wanted: their classes, `[queries]`.
            *noise: see `draw_noise`.

        Returns:
            The loss, 0-dim, and the scores, `[queries, ways]`.
        """
        support, labels = self.add_examples(support, labels, *noise)
        scores = self.scores(support, labels, query)
        return self.loss(scores, wanted), scores

    def draw_noise(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw the random numbers that a head reads in an episode, on the CPU; by default none.

        They are part of the episode: equal generators draw equal ones.
        """
        return ()

    def add_examples(
        self, support: Tensor, labels: Tensor, *noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add examples to the embedded support set; by default none.

        Args:
            support: embedded support images, `[support, ...]`.
            labels: their classes, `[support]`.
            *noise: see `draw_noise`.

        Returns:
            The larger support set and its classes.
        """
        return support, labels

    def embed(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Embed support images `[support, 1, H, W]` and query images `[queries, 1, H, W]`."""
        if self.training or not _tracks_statistics(self.body):
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
        """Score each query image for each class; the highest score wins.

        Args:
            support: embedded support images, `[support, ...]`.
            labels: their classes, `[support]`.
            query: embedded query images, `[queries, ...]`.

        Returns:
            `[queries, ways]`.
        """

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the scores `[queries, ways]`; heads may define another loss."""
        return nn.functional.cross_entropy(scores, labels)

    def one_hot(self, labels: Tensor, like: Tensor) -> Tensor:
        """`[M, ways]`, in the dtype of `like`."""
        return nn.functional.one_hot(labels, self.ways).to(like)

    def prototypes(self, support: Tensor, labels: Tensor) -> Tensor:
        """The mean embedding of each class, `[support, F] -> [ways, F]`."""
        members = self.one_hot(labels, support)
        return members.T @ support / members.sum(0).unsqueeze(1)


def _tracks_statistics(body: nn.Module) -> bool:
    norms = (module for module in body.modules() if isinstance(module, NORMS))
    return any(norm.track_running_stats for norm in norms)
