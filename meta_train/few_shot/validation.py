"""Validation on episodes, which selects the weights of a method to keep."""

from __future__ import annotations

from typing import Any

import torch

from meta_train.evaluation.validation.validator import Validator
from meta_train.few_shot.evaluation import evaluate
from meta_train.few_shot.heads.episodes import EmbeddingEpisodes
from meta_train.few_shot.methods.build import trained_parts
from meta_train.few_shot.methods.settings import MethodSettings
from meta_train.few_shot.readers.episodes import SequenceEpisodes
from meta_train.few_shot.readers.evaluation import evaluate_by_instance
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.runtime.seeding import derive_seed
from meta_train.tasks.describe import describe
from meta_train.tasks.episodes.base import EpisodeTask


class EpisodeValidator(Validator):
    """Mean error after the method's test steps, on the same episodes in every validation.

    Args:
        method: settings of the method.
        task: episodes outside training and testing.
        episodes: number of episodes.
        seed: seed of the job; validation derives its own from it.
        device: device of inner training.
    """

    def __init__(
        self,
        method: MethodSettings,
        task: EpisodeTask | EmbeddingEpisodes,
        episodes: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.method = method
        self.task = task
        self.episodes = episodes
        self.seed = derive_seed(seed, "validation")
        self.device = device

    def describe(self) -> dict[str, Any]:
        """Facts that must be the same when a run is resumed."""
        steps = {"steps": self.method.test_steps, "lr": self.method.inner_lr}
        return {"episodes": self.episodes, **steps, "task": describe(self.task)}

    def figure(self) -> None:
        """There are no curves."""
        return None

    def __call__(self, meta_parameters: MetaParameters) -> float:
        """Validate.

        Returns:
            The error rate in classification, the mean squared error on sine curves: lower is
            better.
        """
        rule, initialization = trained_parts(self.method, meta_parameters, self.task)
        steps = self.method.test_steps if self.method.head is None else 0
        evaluation = evaluate(
            rule,
            initialization,
            self.task,
            steps=(steps,),
            episodes=self.episodes,
            seed=self.seed,
            lr=self.method.inner_lr,
            total_steps=max(steps, 1),
            proximal=self.method.proximal,
            device=self.device,
        )
        mean = evaluation.mean(steps)
        return 1 - mean if evaluation.metric == "accuracy" else mean


class SequenceValidator(Validator):
    """Mean error of a reader over all images of a sequence, on the same ones in every validation.

    Args:
        task: sequences outside training and testing.
        episodes: number of sequences.
        seed: seed of the job; validation derives its own from it.
        device: device of the network.
    """

    def __init__(
        self, task: SequenceEpisodes, episodes: int, seed: int, device: torch.device
    ) -> None:
        self.task = task
        self.episodes = episodes
        self.seed = derive_seed(seed, "validation")
        self.device = device

    def describe(self) -> dict[str, Any]:
        """Facts that must be the same when a run is resumed."""
        return {"episodes": self.episodes, "task": describe(self.task)}

    def figure(self) -> None:
        """There are no curves."""
        return None

    def __call__(self, meta_parameters: MetaParameters) -> float:
        """Validate.

        Returns:
            The error rate over all instances: lower is better.
        """
        found = evaluate_by_instance(
            self.task,
            meta_parameters.initialization(),
            episodes=self.episodes,
            seed=self.seed,
            device=self.device,
        )
        return 1 - float(found.values.double().mean())
