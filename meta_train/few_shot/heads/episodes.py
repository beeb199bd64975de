"""Episodes that an embedding and a head classify, as tasks without inner training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import vmap

from learned_opt.adaptation.module_copy import call_with_tensors
from learned_opt.registry import create
from meta_train.few_shot.heads.base import EpisodeClassifier
from meta_train.few_shot.heads.closed_form import RidgeHead, SVMHead
from meta_train.few_shot.heads.hallucination import Hallucination
from meta_train.few_shot.heads.metric import (
    Matching,
    NearestNeighbour,
    Prototypical,
    Relation,
    Siamese,
)
from meta_train.few_shot.heads.nearest_prototype import CosinePrototype, EuclideanPrototype
from meta_train.few_shot.heads.pairs import PairClassifier
from meta_train.runtime.seeding import seeded_cpu
from meta_train.tasks.base import Batch, BatchedLoss, Loss, Problem, SampledTask, Task, Tensors
from meta_train.tasks.episodes.conv_network import ConvNetworks, networks_of
from meta_train.tasks.episodes.images import ImageEpisodes
from meta_train.tasks.episodes.sampler import Episode

HEADS: Mapping[str, type[EpisodeClassifier]] = MappingProxyType(
    {
        "prototypical": Prototypical,
        "hallucination": Hallucination,
        "matching": Matching,
        "relation": Relation,
        "siamese": Siamese,
        "nearest-neighbour": NearestNeighbour,
        "cosine-prototype": CosinePrototype,
        "euclidean-prototype": EuclideanPrototype,
        "r2d2": RidgeHead,
        "metaoptnet": SVMHead,
    }
)

BODY = "body."
"""Prefix of the embedding's parameters."""


class EmbeddingEpisodes(Task):
    """N-way K-shot episodes that a learned embedding and a head classify in one pass.

    A batch is the whole episode, support and query set, then the random numbers of the head if it
    reads any. It serves as the outer data too. With horizon 0 and a learned initialisation, the
    meta-gradient is the gradient of the head's loss.

    Args:
        episodes: draws the episodes; the body of its network is the embedding.
        head: a name from `HEADS`.
        **settings: settings of the head's class.

    Raises:
        ValueError: an unknown head or setting.

    Examples:
        >>> episodes = OmniglotEpisodes(ways=5, shots=1, queries=5, split="test")
        >>> task = EmbeddingEpisodes(episodes, "prototypical")
        >>> evaluate(create_rule("sgd"), {}, task, steps=(0,)).mean(0)
    """

    metric = "accuracy"

    def __init__(self, episodes: ImageEpisodes, head: str, **settings: Any) -> None:
        self.episodes = episodes
        self.head = head
        self.settings = settings
        self.classifier = self._make(training=True)
        self.eval_classifier = self._make(training=False)

    def _make(self, *, training: bool, seed: int = 0) -> EpisodeClassifier:
        with seeded_cpu(seed):
            network = self.episodes.build()
            arguments = {"network": network, "ways": self.episodes.ways, **self.settings}
            made = create("head", self.head, HEADS, arguments)
        return made.train(training)

    @cached_property
    def _shared(self) -> dict[torch.device, tuple[Tensors, Tensors]]:
        return {}

    def _template(self, device: torch.device) -> tuple[Tensors, Tensors]:
        if device not in self._shared:
            named = self.classifier.named_parameters(), self.classifier.named_buffers()
            parameters, buffers = ({k: v.detach().to(device) for k, v in pairs} for pairs in named)
            self._shared[device] = parameters, buffers
        return self._shared[device]

    def template(self, device: torch.device | None = None, seed: int = 0) -> Tensors:
        """Initial parameters of the embedding and the head, by name."""
        device = device or torch.device("cpu")
        if seed == 0:
            return dict(self._template(device)[0])
        made = self._make(training=True, seed=seed)
        return {key: value.detach().to(device) for key, value in made.named_parameters()}

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw an episode, then the noise of the head."""
        episode = self.episodes.sampler.draw(generator, device)
        noise = self.classifier.draw_noise(generator)
        batch = (*episode, *(numbers.to(device) for numbers in noise)) if noise else episode
        parameters, buffers = self._template(device)
        return Problem(
            parameters=dict(parameters),
            buffers=dict(buffers),
            loss=self.problem_loss,
            draw=lambda _: batch,
            full=lambda: batch,
            draw_validation=lambda _: batch,
        )

    @staticmethod
    def episode_of(batch: Batch) -> Episode:
        """The images and classes of a batch, without the noise that the head reads."""
        return _parts(batch)[0]

    def loss(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The head's loss on an episode, 0-dim, and the buffers afterwards."""
        episode, noise = _parts(batch)
        (loss, _), after = call_with_tensors(
            self.classifier,
            {**parameters, **buffers},
            lambda classifier: classifier(episode, *noise),
        )
        return loss, {key: after[key] for key in buffers}

    def predict(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> Tensor:
        """Scores of the query images, `[queries, ways]`, in evaluation mode."""
        episode, noise = _parts(batch)
        (_, scores), _ = call_with_tensors(
            self.eval_classifier,
            {**parameters, **buffers},
            lambda classifier: classifier(episode, *noise),
        )
        assert isinstance(scores, Tensor)
        return scores

    @property
    def verifies(self) -> bool:
        """Whether the head has a score of two images."""
        return isinstance(self.eval_classifier, PairClassifier)

    @property
    def normalises(self) -> bool:
        """Whether the score of two images depends on the directions of embeddings alone."""
        classifier = self.eval_classifier
        return isinstance(classifier, PairClassifier) and classifier.normalises

    def embed(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> Tensor:
        """Embed the support images, then the query images: `[images, ...]`."""
        episode, _ = _parts(batch)

        def embed(classifier: nn.Module) -> Tensor:
            assert isinstance(classifier, EpisodeClassifier)
            return torch.cat(classifier.embed(episode.support_x, episode.query_x))

        return call_with_tensors(self.eval_classifier, {**parameters, **buffers}, embed)[0]

    def score_pairs(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> Tensor:
        """Scores of each query image with each support image, `[queries, support]`.

        Raises:
            ValueError: the head has no score of two images; see `verifies`.
        """
        episode, _ = _parts(batch)

        def compare(classifier: nn.Module) -> Tensor:
            if not isinstance(classifier, PairClassifier):
                raise ValueError(f"head {self.head!r} does not compare pairs of images")
            return classifier.score_pairs(episode)

        return call_with_tensors(self.eval_classifier, {**parameters, **buffers}, compare)[0]

    def score(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> Tensor:
        """Accuracy on the query images, 0-dim, in [0, 1]."""
        scores = self.predict(parameters, buffers, batch)
        return self.episodes.score_of(scores, _parts(batch)[0].query_y)

    @cached_property
    def problem_loss(self) -> Loss:
        """`loss`, with a faster way for many episodes and for one, if the embedding has one."""
        if self._bodies is None:
            return self.loss
        return BatchedLoss(self._loss_of_one, self.losses, self._suits)

    @cached_property
    def _bodies(self) -> ConvNetworks | None:
        kind = type(self.classifier)
        usual = EpisodeClassifier
        if kind.forward is not usual.forward or kind.embed is not usual.embed:
            return None
        return networks_of(self.classifier.body)

    def losses(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """`loss` of many episodes: every tensor has a leading axis. Losses are `[episodes]`."""
        found = self._classify(parameters, buffers, batch)
        if found is not None:
            return found[0], buffers
        result: tuple[Tensor, Tensors] = vmap(self.loss)(parameters, buffers, batch)
        return result

    def _loss_of_one(
        self, parameters: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        one = {key: value.unsqueeze(0) for key, value in parameters.items()}
        found = self._classify(one, buffers, tuple(part.unsqueeze(0) for part in batch))
        return self.loss(parameters, buffers, batch) if found is None else (found[0][0], buffers)

    def scores(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> Tensor:
        """`score` of many episodes: every tensor has a leading axis. Scores are `[episodes]`."""
        found = self._classify(parameters, buffers, batch)
        scores: Tensor
        if found is None:
            scores = vmap(self.score, randomness="different")(parameters, buffers, batch)
        else:
            scores = vmap(self.episodes.score_of)(found[1], self.episode_of(batch).query_y)
        return scores

    def _classify(
        self, parameters: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensor] | None:
        """Losses `[episodes]` and scores of many episodes; None if only `vmap` knows how."""
        bodies = self._bodies
        if bodies is None or not self._suits(parameters, buffers, batch):
            return None
        episodes, noise = _parts(batch)
        images = torch.cat([episodes.support_x, episodes.query_x], 1)
        features = bodies(_of_body(parameters), images)
        count = episodes.support_x.shape[1]

        def head(
            parameters: Tensors, both: Tensor, labels: Tensor, wanted: Tensor, *noise: Tensor
        ) -> Any:
            def classify(classifier: nn.Module) -> tuple[Tensor, Tensor]:
                assert isinstance(classifier, EpisodeClassifier)
                return classifier.classify(both[:count], labels, both[count:], wanted, *noise)

            return call_with_tensors(self.classifier, parameters, classify)[0]

        own = {key: value for key, value in parameters.items() if not key.startswith(BODY)}
        found: tuple[Tensor, Tensor]
        found = vmap(head)(own, features, episodes.support_y, episodes.query_y, *noise)
        return found

    def _suits(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> bool:
        """Whether the embeddings of many episodes are computed at once, without `vmap`."""
        bodies, episodes = self._bodies, self.episode_of(batch)
        if bodies is None or buffers:
            return False
        both = episodes.support_x, episodes.query_x
        return all(bodies.fits(_of_body(parameters), images) for images in both)

    def with_settings(self, **settings: Any) -> Self:
        """The same head on episodes with other settings."""
        return type(self)(replace(self.episodes, **settings), self.head, **self.settings)

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """See `Task`."""
        return SampledTask(self.head, self)

    def validation(self) -> EmbeddingEpisodes:
        """Episodes of the validation split."""
        return self.with_settings(split="validation")

    def held_out(self) -> dict[str, Task]:
        """Episodes of the test split."""
        return {"same family": self.with_settings(split="test")}


def _of_body(parameters: Tensors) -> Tensors:
    """The parameters of the embedding, by the names in its module."""
    return {k.removeprefix(BODY): v for k, v in parameters.items() if k.startswith(BODY)}


def _parts(batch: Batch) -> tuple[Episode, tuple[Tensor, ...]]:
    """An episode, and the noise that the head reads."""
    fields = len(Episode._fields)
    return Episode(*batch[:fields]), tuple(batch[fields:])
