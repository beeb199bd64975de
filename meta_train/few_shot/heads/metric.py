"""Heads that compare the query images with the support images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from meta_train.few_shot.heads.pairs import PairClassifier
from meta_train.tasks.episodes.networks import FewShotNetwork, MeanPool


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Squared Euclidean distances of `[M, F]` and `[N, F]`: `[M, N]`."""
    # `cdist` takes a square root, which has no derivative at 0.
    return (left.unsqueeze(1) - right.unsqueeze(0)).square().sum(-1)


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """Cosines of `[M, F]` and `[N, F]`: `[M, N]`."""
    return normalize(left, dim=-1) @ normalize(right, dim=-1).T


class Prototypical(PairClassifier):
    """Prototypical networks (Snell et al. 2017, arXiv 1703.05175, eq. 1 and 2).

    The score of a class is minus the squared Euclidean distance to its mean embedding.
    """

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `EpisodeClassifier`."""
        return -squared_distances(query, self.prototypes(support, labels))

    def pair_scores(self, support: Tensor, query: Tensor) -> Tensor:
        """Minus squared distances; see `PairClassifier`."""
        return -squared_distances(query, support)


class Matching(PairClassifier):
    """Matching networks (Vinyals et al. 2016, arXiv 1606.04080, eq. 1).

    Attention over the support images is a softmax of cosines. The score of a class is the logarithm
    of the attention on its images, so the cross-entropy is the paper's loss. Each image is embedded
    by itself, without the full context embeddings of section 2.1.2.
    """

    normalises = True

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `EpisodeClassifier`."""
        attention = cosines(query, support).softmax(-1)
        return (attention @ self.one_hot(labels, support)).log()

    def pair_scores(self, support: Tensor, query: Tensor) -> Tensor:
        """Cosines; see `PairClassifier`."""
        return cosines(query, support)


class Relation(PairClassifier):
    """Relation networks (Sung et al. 2018, arXiv 1711.06025, eq. 1 and 2).

    The feature maps of a class's support images are summed and concatenated with those of the query
    image. Two convolutions and two linear layers give a relation in [0, 1], which squared error
    trains towards 1 for the right class and 0 for others. The paper's embedding has larger maps.
    Here the embedding is that of the other methods: its last maps are small (2 x 2 on Omniglot), so
    the convolutions of the relation do not pool.

    Args:
        network: its body must be convolutional.
        ways: classes per episode (N).
        units: units of the hidden linear layer.

    Raises:
        ValueError: the body has no maps.
    """

    mixes_queries = True  # Its batch normalisation sees all pairs.

    def __init__(self, network: FewShotNetwork, *, ways: int, units: int = 8) -> None:
        super().__init__(network, ways=ways)
        layers = list(network.body.children())
        if not any(isinstance(layer, nn.Conv2d) for layer in layers):
            raise ValueError("relation networks compare maps: they need architecture conv4")
        self.body = nn.Sequential(*layers[:-1])  # Without the pooling; parameter names stay.
        pooled = isinstance(layers[-1], MeanPool)
        channels = self.features if pooled else self.features // network.places
        blocks: list[nn.Module] = []
        for inputs in (2 * channels, channels):
            blocks += [
                nn.Conv2d(inputs, channels, 3, padding=1),
                nn.BatchNorm2d(channels, track_running_stats=False),
                nn.ReLU(),
            ]
        self.relation = nn.Sequential(
            *blocks,
            nn.Flatten(),
            nn.Linear(network.places * channels, units),
            nn.ReLU(),
            nn.Linear(units, 1),
            nn.Sigmoid(),
        )

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Relations in [0, 1]; see `EpisodeClassifier`."""
        members = self.one_hot(labels, support)
        classes = (members.T @ support.flatten(1)).unflatten(1, support.shape[1:])
        return self.pair_scores(classes, query)

    def pair_scores(self, support: Tensor, query: Tensor) -> Tensor:
        """Relations in [0, 1]; see `PairClassifier`."""
        pairs = torch.cat(
            [
                support.unsqueeze(0).expand(len(query), *support.shape),
                query.unsqueeze(1).expand(len(query), *support.shape),
            ],
            2,
        )
        relations: Tensor = self.relation(pairs.flatten(0, 1))
        return relations.reshape(len(query), len(support))

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Squared error of the relations."""
        return nn.functional.mse_loss(scores, self.one_hot(labels, scores))


class Siamese(PairClassifier):
    """Siamese networks (Koch et al. 2015, "Siamese neural networks").

    The probability that two images have the same class is
    p = sigmoid(sum_j w_j |a_j - b_j| + bias). It is trained on all pairs of a query and a support
    image; pairs of one class weigh as much as all other pairs together. The score of a class is the
    mean over its support images (the paper has one image per class).
    """

    def __init__(self, network: FewShotNetwork, *, ways: int) -> None:
        super().__init__(network, ways=ways)
        self.compare = nn.Linear(self.features, 1)
        with torch.no_grad():
            # Starts as a distance: nearer images are more likely to share a class.
            self.compare.weight.fill_(-1 / self.features)

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Log-odds; see `EpisodeClassifier`."""
        members = self.one_hot(labels, support)
        return self.pair_scores(support, query) @ members / members.sum(0)

    def pair_scores(self, support: Tensor, query: Tensor) -> Tensor:
        """Log-odds; see `PairClassifier`."""
        distances = (query.unsqueeze(1) - support.unsqueeze(0)).abs()
        odds: Tensor = self.compare(distances).squeeze(-1)
        return odds

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy of "same class"; with several shots, of the mean log-odds."""
        return nn.functional.binary_cross_entropy_with_logits(
            scores,
            self.one_hot(labels, scores),
            pos_weight=scores.new_full((), self.ways - 1.0),
        )


class NearestNeighbour(PairClassifier):
    """Nearest neighbour: the largest cosine with a support image of the class; nothing to train."""

    normalises = True

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `EpisodeClassifier`."""
        others = self.one_hot(labels, support).T == 0
        return cosines(query, support).unsqueeze(1).masked_fill(others, -2.0).amax(-1)

    def pair_scores(self, support: Tensor, query: Tensor) -> Tensor:
        """Cosines; see `PairClassifier`."""
        return cosines(query, support)
