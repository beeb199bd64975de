"""A trained few-shot method: what was learned, how training went, and its test scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from learned_opt.rules.base import UpdateRule
from meta_train.few_shot.data_sets import PER_CLASS
from meta_train.few_shot.episodes import EvaluationTask, evaluation_task, method_settings
from meta_train.few_shot.evaluation import evaluate
from meta_train.few_shot.heads.episodes import EmbeddingEpisodes
from meta_train.few_shot.methods import mini_imagenet
from meta_train.few_shot.methods.build import initial_parameters, trained_parts
from meta_train.few_shot.methods.registry import get_method
from meta_train.few_shot.methods.settings import MethodSettings
from meta_train.few_shot.readers.episodes import SequenceEpisodes
from meta_train.few_shot.readers.evaluation import evaluate_by_instance
from meta_train.few_shot.scores import Evaluation
from meta_train.few_shot.settings import FewShotConfig
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.seeding import derive_seed
from meta_train.tasks.base import Tensors
from meta_train.tasks.episodes.base import EpisodeTask

EVALUATED_STEPS = {"sine": tuple(range(11)), **dict.fromkeys(PER_CLASS, (0, 1))}
"""Inner steps after which query sets are evaluated by default, besides the method's own."""
PUBLISHED_WAYS = 5
"""Classes per sequence in the published figures of readers."""


@dataclass(frozen=True)
class TrainedMethod:
    """A few-shot method after meta-training.

    Attributes:
        name: name of the method.
        method: its settings on the data of the job.
        rule: the update rule that takes the inner steps.
        initialization: the learned initialisation by parameter name.
        facts: how training went, for cards and tables.
    """

    name: str
    method: MethodSettings
    rule: UpdateRule
    initialization: Tensors
    facts: Mapping[str, Any]


def trained_method(
    name: str,
    trainer: MetaTrainer,
    config: FewShotConfig,
    begins_with: Mapping[str, Any] | None = None,
) -> TrainedMethod:
    """The result of meta-training.

    Args:
        name: name of the method, or of one that uses the training of the trainer's method.
        trainer: a trainer that has trained.
        config: the job.
        begins_with: facts about the initialisation that training began with, if it had one.
    """
    method = method_settings(name, config)
    task = evaluation_task(method, config)
    rule, initialization = trained_parts(method, trainer.kept, task)
    settings = trainer.settings
    facts = {
        "source": get_method(name).source,
        "published": published_figure(name, config),
        "published_by_instance": published_by_instance(name, config),
        "outer_steps": trainer.outer_step,
        "minutes": round(trainer.seconds / 60, 2),
        "diverged_runs": trainer.diverged,
        "skipped_steps": trainer.meta_optimizer.skipped,
        "inner_steps": {"training": list(settings.horizons), "testing": method.test_steps},
        "inner_lr": method.inner_lr,
        "episodes_of": _episode_settings(task),
        "transductive": method.transductive and config.data != "sine",
        "device": str(trainer.device),
        "adapted_parameters": _adapted_parameters(method, task),
        "learned_parameters": sum(p.numel() for p in trainer.kept.parameters()),
        "train": asdict(settings),
        "validation": _validation_facts(trainer, config),
        "begins_with": begins_with,
    }
    return TrainedMethod(name, method, rule, initialization, facts)


def published_figure(name: str, config: FewShotConfig) -> tuple[float, float | None] | None:
    """The paper's accuracy and half its interval in percent, on the data of a job, if it has one.

    Args:
        name: name of the method.
        config: the job.
    """
    figures = {
        "omniglot": get_method(name).published,
        "miniimagenet": mini_imagenet.PUBLISHED.get(name, {}),
    }
    return figures.get(config.data, {}).get((config.ways, config.support_shots))


def published_by_instance(name: str, config: FewShotConfig) -> dict[int, float] | None:
    """The paper's accuracies of a reader in percent, by instance, on its data with its classes.

    Args:
        name: name of the method.
        config: the job.
    """
    figures = get_method(name).published_by_instance
    if not figures or (config.data, config.ways) != ("omniglot", PUBLISHED_WAYS):
        return None
    return dict(figures)


def _validation_facts(trainer: MetaTrainer, config: FewShotConfig) -> dict[str, Any] | None:
    if trainer.validate is None:
        return None
    error = trainer.best_value
    return {"episodes": config.validate, "error": error if math.isfinite(error) else None}


def _episode_settings(task: EvaluationTask) -> dict[str, Any]:
    """Settings of test episodes, except where the data lies."""
    episodes = task if isinstance(task, EpisodeTask) else task.episodes
    return {k: v for k, v in asdict(episodes).items() if k not in ("folder", "download")}


def _adapted_parameters(method: MethodSettings, task: EvaluationTask) -> int:
    if isinstance(task, EmbeddingEpisodes):
        return task.classifier.solved_parameters
    if isinstance(task, SequenceEpisodes):
        return 0
    _, adapted = initial_parameters(method, task)
    return sum(value.numel() for value in adapted.values())


def evaluate_trained(
    trained: TrainedMethod, config: FewShotConfig, device: torch.device
) -> Evaluation:
    """Evaluate a trained method on test episodes.

    Args:
        trained: the method.
        config: the job.
        device: device of inner training.
    """
    method = trained.method
    task = evaluation_task(method, config)
    seed = derive_seed(config.seed, "test")
    if isinstance(task, SequenceEpisodes):
        return evaluate_by_instance(
            task,
            trained.initialization,
            episodes=config.episodes,
            seed=seed,
            device=device,
            progress=config.progress,
        )
    if method.head is not None:
        steps: tuple[int, ...] = (0,)
    elif config.steps is not None:
        steps = config.steps
    else:
        steps = tuple(sorted({*EVALUATED_STEPS[config.data], method.test_steps}))
    return evaluate(
        trained.rule,
        trained.initialization,
        task,
        steps=steps,
        episodes=config.episodes,
        seed=seed,
        lr=method.inner_lr,
        total_steps=max(method.test_steps, 1),
        proximal=method.proximal,
        device=device,
        progress=config.progress,
    )
