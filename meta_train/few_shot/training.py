"""Meta-trains a few-shot method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meta_train.evaluation.validation.validator import Validator
from meta_train.few_shot.episodes import evaluation_task, method_settings, training_task
from meta_train.few_shot.methods.build import initial_parameters, make_rule
from meta_train.few_shot.methods.settings import MethodSettings
from meta_train.few_shot.readers.episodes import SequenceEpisodes
from meta_train.few_shot.settings import OUTER_STEPS, FewShotConfig
from meta_train.few_shot.validation import EpisodeValidator, SequenceValidator
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.seeding import derive_seed
from meta_train.tasks.base import Tensors
from meta_train.tasks.episodes.base import HEAD


def train_settings(method: MethodSettings, config: FewShotConfig) -> TrainSettings:
    """Settings of meta-training: the method's, then the job's `train`, then `outer_steps`.

    Args:
        method: see `method_settings`.
        config: the job.
    """
    own: dict[str, Any] = {
        "objective": "last",
        "objective_data": "validation",
        "param_rescale_range": 0.0,
        "estimator": method.estimator,
        "estimator_settings": dict(method.estimator_settings),
        "runs": method.meta_batch,
        "horizons": (method.train_steps,),
        "second_order": method.second_order,
        "inner_lr": method.inner_lr,
        "outer_steps": OUTER_STEPS[config.data],
        "max_minutes": config.max_minutes,
        "seed": config.seed,
        **method.outer,
    }
    own["outer_steps"] = max(1, round(config.effort * own["outer_steps"]))
    own.update(config.train)
    if "train_steps" in config.row_settings and "horizons" not in config.train:
        own["horizons"] = (method.train_steps,)
    if config.outer_steps is not None:
        own["outer_steps"] = config.outer_steps
    return TrainSettings(**own)


def make_trainer(
    name: str,
    config: FewShotConfig,
    device: torch.device,
    folder: Path | None,
    begin: Mapping[str, Tensor] | None = None,
    settings: TrainSettings | None = None,
) -> MetaTrainer:
    """Make the meta-trainer of a method. Nothing is written yet.

    Args:
        name: name of the method.
        config: the job.
        device: device of training.
        folder: run folder; None writes nothing.
        begin: start from these values by parameter name, where the method has the parameter.
        settings: settings of an earlier trainer of the method; by default made from `config`.

    Raises:
        ValueError: settings that do not go together, or nothing in `begin` fits.
        OSError: the data is missing.

    Examples:
        >>> trainer = make_trainer("maml", FewShotConfig(), torch.device("cpu"), folder=None)
        >>> trainer.train()
    """
    method = method_settings(name, config)
    task = training_task(method, config)
    learned, adapted = initial_parameters(method, task, config.seed)
    if begin is not None:
        learned = _begin_with(begin, learned)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "rule"))
        rule = make_rule(method, adapted)
    settings = train_settings(method, config) if settings is None else settings
    if "gates_every" not in config.train and not list(rule.parameters()):
        settings = replace(settings, gates_every=0)  # The rule has no gates.
    return MetaTrainer(
        rule,
        task,
        settings,
        initialization=learned,
        folder=folder,
        device=device,
        validate=_validator(method, config, device),
    )


def _validator(
    method: MethodSettings, config: FewShotConfig, device: torch.device
) -> Validator | None:
    if not config.validate:
        return None
    task = evaluation_task(method, config, split="validation")
    if isinstance(task, SequenceEpisodes):
        return SequenceValidator(task, config.validate, config.seed, device)
    return EpisodeValidator(method, task, config.validate, config.seed, device)


def _begin_with(begin: Mapping[str, Tensor], learned: Tensors) -> Tensors:
    """Take the values of `begin`, except a head with another number of classes."""
    begin = {
        key: value
        for key, value in begin.items()
        if not key.startswith(HEAD) or learned.get(key, value).shape == value.shape
    }
    if not begin.keys() & learned.keys():
        raise ValueError(
            f"the initialisation to begin with has parameters {', '.join(begin)}; the method "
            f"learns {', '.join(learned) or 'none'}"
        )
    for key, value in learned.items():
        if key in begin and begin[key].shape != value.shape:
            raise ValueError(
                f"parameter {key!r} is {list(begin[key].shape)} in the initialisation to begin "
                f"with and {list(value.shape)} in the method's network"
            )
    return {key: begin.get(key, value).clone() for key, value in learned.items()}
