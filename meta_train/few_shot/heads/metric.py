"""Methods that compare a query image with the support images: baselines of the few-shot table."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from meta_train.few_shot.heads.base import EpisodeMethod
from meta_train.tasks.episodes.networks import FewShotNetwork, MeanPool


def squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """`[M, F]` and `[N, F]` to `[M, N]`."""
    # Not `cdist`, whose root has no derivative at 0.
    return (left.unsqueeze(1) - right.unsqueeze(0)).square().sum(-1)


class Prototypical(EpisodeMethod):
    """Score: minus the squared distance to the class's mean (Snell et al. 2017, arXiv 1703.05175).

    Equations 1 and 2, Euclidean.
    """

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `EpisodeMethod`."""
        return -squared_distances(query, self.prototypes(support, labels))

    def prototypes(self, support: Tensor, labels: Tensor) -> Tensor:
        """The mean embedding of each class, `[ways, F]`."""
        members = self.one_hot(labels, support)
        return members.T @ support / members.sum(0).unsqueeze(1)


class Matching(EpisodeMethod):
    """Attention over the support images by cosine (Vinyals et al. 2016, arXiv 1606.04080, eq. 1).

    Scores are logarithms of the attention that a class's images get, so that the cross-entropy is
    the paper's loss. Without full context embeddings (section 2.1.2): images are embedded each by
    itself.
    """

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `EpisodeMethod`."""
        attention = (normalize(query, dim=-1) @ normalize(support, dim=-1).T).softmax(-1)
        return (attention @ self.one_hot(labels, support)).log()


class Relation(EpisodeMethod):
    """A network compares the last maps of query and class (Sung et al. 2018, arXiv 1711.06025).

    Equations 1 and 2: maps of a class's support images are summed, joined with the query's, and two
    convolutions and two linear layers give a relation in [0, 1], which is to be 1 or 0 (squared
    error). The paper's embedding keeps larger maps; here it is that of all other methods, whose
    last map is 2 x 2, so that the relation's convolutions do not pool.

    Args:
        network: its body must end in maps.
        ways: classes of an episode.
        units: of the hidden linear layer.

    Raises:
        ValueError: the body has no maps.
    """

    mixes_queries = True  # its own layers normalise all pairs together

    def __init__(self, network: FewShotNetwork, *, ways: int, units: int = 8) -> None:
        super().__init__(network, ways=ways)
        layers = list(network.body.children())
        if not any(isinstance(layer, nn.Conv2d) for layer in layers):
            raise ValueError("relation networks compare maps: they need architecture conv4")
        self.body = nn.Sequential(*layers[:-1])  # without the pool; names stay
        pooled = isinstance(layers[-1], MeanPool)
        channels = self.features if pooled else self.features // 4
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
            nn.Linear(4 * channels, units),
            nn.ReLU(),
            nn.Linear(units, 1),
            nn.Sigmoid(),
        )

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `EpisodeMethod`; relations in [0, 1]."""
        members = self.one_hot(labels, support)
        classes = (members.T @ support.flatten(1)).unflatten(1, support.shape[1:])
        pairs = torch.cat(
            [
                classes.unsqueeze(0).expand(len(query), *classes.shape),
                query.unsqueeze(1).expand(len(query), *classes.shape),
            ],
            2,
        )
        relations: Tensor = self.relation(pairs.flatten(0, 1))
        return relations.reshape(len(query), self.ways)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The squared error of the relations."""
        return nn.functional.mse_loss(scores, self.one_hot(labels, scores))


class Siamese(EpisodeMethod):
    """Are two images of one class? (Koch et al. 2015, "Siamese neural networks").

    p = sigmoid(sum_j w_j |a_j - b_j| + bias), trained on all pairs of a query and a support image;
    pairs of one class weigh as much as all others together. A class's score is the mean of its
    images' (the paper has one image of each).
    """

    def __init__(self, network: FewShotNetwork, *, ways: int) -> None:
        super().__init__(network, ways=ways)
        self.compare = nn.Linear(self.features, 1)
        with torch.no_grad():
            # Alike until told otherwise: the nearer, the likelier of one class.
            self.compare.weight.fill_(-1 / self.features)

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `EpisodeMethod`; log-odds."""
        distances = (query.unsqueeze(1) - support.unsqueeze(0)).abs()
        odds: Tensor = self.compare(distances).squeeze(-1)
        members = self.one_hot(labels, support)
        return odds @ members / members.sum(0)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of "one class or not"; with several shots, of their mean log-odds."""
        return nn.functional.binary_cross_entropy_with_logits(
            scores,
            self.one_hot(labels, scores),
            pos_weight=scores.new_full((), self.ways - 1.0),
        )


class NearestNeighbour(EpisodeMethod):
    """Score: the largest cosine with a class's support images. Has nothing of its own to train."""

    def scores(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """See `EpisodeMethod`."""
        cosines = normalize(query, dim=-1) @ normalize(support, dim=-1).T
        others = self.one_hot(labels, support).T == 0
        return cosines.unsqueeze(1).masked_fill(others, -2.0).amax(-1)
