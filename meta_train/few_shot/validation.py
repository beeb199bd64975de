"""Which weights of a row to keep: how well it does on episodes of validation."""

from __future__ import annotations

from typing import Any

import torch

from meta_train.evaluation.validator import Validator
from meta_train.few_shot.evaluation import evaluate
from meta_train.few_shot.heads.task import ScoredEpisodes
from meta_train.few_shot.methods.spec import FewShotMethod
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.runtime.seeding import derive_seed
from meta_train.tasks.describe import describe
from meta_train.tasks.episodes.base import EpisodeTask


class EpisodeValidator(Validator):
    """The mean score after the row's own steps, on the same episodes every time.

    Args:
        row: the method.
        task: episodes that it is neither trained on nor tested on.
        episodes: how many of them.
        seed: of the job; these episodes are drawn from a seed of their own.
        device: where to compute.
    """

    def __init__(
        self,
        row: FewShotMethod,
        task: EpisodeTask | ScoredEpisodes,
        episodes: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.row = row
        self.task = task
        self.episodes = episodes
        self.seed = derive_seed(seed, "validation")
        self.device = device

    def describe(self) -> dict[str, Any]:
        """What a resumed run must be validated by, too."""
        steps = {"steps": self.row.test_steps, "lr": self.row.inner_lr}
        return {"episodes": self.episodes, **steps, "task": describe(self.task)}

    def figure(self) -> None:
        """There are no curves."""
        return None

    def __call__(self, meta_parameters: MetaParameters) -> float:
        """Validate.

        Returns:
            The share of wrong classes, or the squared error: the less the better.
        """
        rule, phi = self.row.ready(meta_parameters, self.task)
        steps = self.row.test_steps if self.row.method is None else 0
        evaluation = evaluate(
            rule,
            phi,
            self.task,
            steps=(steps,),
            episodes=self.episodes,
            seed=self.seed,
            lr=self.row.inner_lr,
            total_steps=max(steps, 1),
            proximal=self.row.proximal,
            device=self.device,
        )
        mean = evaluation.mean(steps)
        return 1 - mean if evaluation.metric == "accuracy" else mean
