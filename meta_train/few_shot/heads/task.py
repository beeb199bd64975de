"""Methods that read whole episodes, as tasks whose problems have nothing to train inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor
from torch.func import functional_call

from learned_opt.registry import create
from meta_train.few_shot.heads.base import EpisodeMethod
from meta_train.few_shot.heads.closed_form import RidgeHead, SVMHead
from meta_train.few_shot.heads.metric import (
    Matching,
    NearestNeighbour,
    Prototypical,
    Relation,
    Siamese,
)
from meta_train.tasks.base import Problem, SampledTask, Task, Tensors
from meta_train.tasks.episodes.omniglot import OmniglotEpisodes
from meta_train.tasks.episodes.sampler import Episode

METHODS: Mapping[str, type[EpisodeMethod]] = MappingProxyType(
    {
        "prototypical": Prototypical,
        "matching": Matching,
        "relation": Relation,
        "siamese": Siamese,
        "nearest-neighbour": NearestNeighbour,
        "r2d2": RidgeHead,
        "metaoptnet": SVMHead,
    }
)


class ScoredEpisodes(Task):
    """Episodes that a method embeds and scores, with no inner step.

    A problem's batch is the whole episode, as data to judge by as well: with a horizon of 0 and a
    learned initialisation the meta-gradient is the plain gradient of the method's loss.

    Args:
        task: draws the episodes; its network's body is the embedding.
        method: one of `METHODS`.
        **settings: of the method.

    Raises:
        ValueError: an unknown method or setting.
    """

    metric = "accuracy"

    def __init__(self, task: OmniglotEpisodes, method: str, **settings: Any) -> None:
        self.task = task
        self.method = method
        self.settings = settings
        self.module = self._make(training=True)
        self.judged_module = self._make(training=False)

    def _make(self, *, training: bool, seed: int = 0) -> EpisodeMethod:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = self.task.build()
            arguments = {"network": network, "ways": self.task.ways, **self.settings}
            made = create("method", self.method, METHODS, arguments)
        return made.train(training)

    @cached_property
    def _shared(self) -> dict[torch.device, tuple[Tensors, Tensors]]:
        return {}

    def _template(self, device: torch.device) -> tuple[Tensors, Tensors]:
        if device not in self._shared:
            named = self.module.named_parameters(), self.module.named_buffers()
            parameters, buffers = ({k: v.detach().to(device) for k, v in pairs} for pairs in named)
            self._shared[device] = parameters, buffers
        return self._shared[device]

    def template(self, device: torch.device | None = None, seed: int = 0) -> Tensors:
        """Initial values of the embedding's and the method's parameters."""
        device = device or torch.device("cpu")
        if seed == 0:
            return dict(self._template(device)[0])
        made = self._make(training=True, seed=seed)
        return {key: value.detach().to(device) for key, value in made.named_parameters()}

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw an episode."""
        episode = self.task.sampler.draw(generator, device)
        parameters, buffers = self._template(device)
        return Problem(
            parameters=dict(parameters),
            buffers=dict(buffers),
            loss=self.loss,
            draw=lambda _: episode,
            full=lambda: episode,
            draw_validation=lambda _: episode,
        )

    def loss(self, parameters: Tensors, buffers: Tensors, batch: Episode) -> tuple[Tensor, Tensors]:
        """The method's loss on an episode, and the buffers afterwards."""
        buffers = {key: value.clone() for key, value in buffers.items()}
        loss, _ = functional_call(self.module, (parameters, buffers), (Episode(*batch),))
        return loss, buffers

    def predict(self, parameters: Tensors, buffers: Tensors, batch: Episode) -> Tensor:
        """Scores of an episode's query images, `[queries, ways]`, in evaluation mode."""
        buffers = {key: value.clone() for key, value in buffers.items()}
        episode = Episode(*batch)
        _, scores = functional_call(self.judged_module, (parameters, buffers), (episode,))
        assert isinstance(scores, Tensor)
        return scores

    def score(self, parameters: Tensors, buffers: Tensors, batch: Episode) -> Tensor:
        """The share of query images whose class scores highest, 0-dim."""
        scores = self.predict(parameters, buffers, batch)
        return self.task.score_of(scores, Episode(*batch).query_y)

    def with_settings(self, **settings: Any) -> Self:
        """The same method on other episodes."""
        return type(self)(replace(self.task, **settings), self.method, **self.settings)

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """See `Task`."""
        return SampledTask(self.method, self)

    def validation(self) -> ScoredEpisodes:
        """Other characters."""
        return self.with_settings(split="validation")

    def held_out(self) -> dict[str, Task]:
        """Characters that nothing was fitted to."""
        return {"same family": self.with_settings(split="test")}
