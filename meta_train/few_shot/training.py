"""Train one row of the few-shot table, and judge it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learned_opt.rules.base import UpdateRule
from meta_train.few_shot.evaluation import Evaluation, evaluate
from meta_train.few_shot.heads.task import ScoredEpisodes
from meta_train.few_shot.methods.registry import get_row
from meta_train.few_shot.methods.spec import FewShotMethod
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.validation import EpisodeValidator
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.seeding import derive_seed
from meta_train.tasks.base import Tensors
from meta_train.tasks.episodes.base import HEAD, EpisodeTask
from meta_train.tasks.episodes.omniglot import OmniglotClasses
from meta_train.tasks.episodes.stored_heads import StoredHeads

OUTER_STEPS = {"sine": 3_000, "omniglot": 10_000}
JUDGED_STEPS = tuple(range(11))


@dataclass(frozen=True)
class Trained:
    """A row that was trained.

    Attributes:
        name: of the row.
        row: as it is for the data.
        rule: takes the inner steps.
        phi: the learned initialisation by name.
        facts: how training went, for cards and tables.
    """

    name: str
    row: FewShotMethod
    rule: UpdateRule
    phi: Tensors
    facts: dict[str, Any]


def row_of(name: str, config: FewShotConfig) -> FewShotMethod:
    """The row as it is for the data of a configuration."""
    row = get_row(name)
    row = row.on_sine() if config.data == "sine" else row.at(config.ways, config.support)
    return replace(row, **config.row_settings)


def test_task(
    row: FewShotMethod, config: FewShotConfig, *, split: str = "test"
) -> EpisodeTask | ScoredEpisodes:
    """What the row is tested on, or by split="validation" what it is validated on."""
    settings = _task_settings(config, testing=True)
    if config.data == "sine":  # all curves are of one kind: seeds keep them apart
        return row.sine_task(config.support, **settings)
    return row.test_task(config.ways, config.support, split=split, **settings)


def train_task(
    row: FewShotMethod, config: FewShotConfig
) -> EpisodeTask | OmniglotClasses | ScoredEpisodes | StoredHeads:
    """What the row is trained on."""
    settings = _task_settings(config, testing=False)
    if config.data == "sine":
        return row.sine_train_task(config.support, **settings)
    return row.train_task(config.ways, config.support, **settings)


def _task_settings(config: FewShotConfig, *, testing: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {"queries": config.query(testing=testing)}
    if config.data == "omniglot":
        settings["folder"] = None if config.folder is None else str(config.folder)
        settings["download"] = config.download
    return {**settings, **config.task_settings}


def train_settings(row: FewShotMethod, config: FewShotConfig) -> TrainSettings:
    """How the row is meta-trained."""
    own: dict[str, Any] = {
        "objective": "last",
        "objective_data": "validation",
        "param_rescale_range": 0.0,
        "estimator": row.estimator,
        "estimator_settings": dict(row.estimator_settings),
        "runs": row.meta_batch,
        "horizons": (row.train_steps,),
        "second_order": row.second_order,
        "inner_lr": row.inner_lr,
        "outer_steps": OUTER_STEPS[config.data],
        "max_minutes": config.max_minutes,
        "seed": config.seed,
        **row.outer,
    }
    own["outer_steps"] = max(1, round(config.effort * own["outer_steps"]))
    own.update(config.train)
    if "train_steps" in config.row_settings and "horizons" not in config.train:
        own["horizons"] = (row.train_steps,)
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
    """The trainer of a row that trains something.

    Args:
        name: of the row.
        config: see there.
        device: where to train.
        folder: of the run; None writes nothing.
        begin: what the learned initialisation begins with, by name, as far as the row has it.
        settings: of an earlier trainer of the row; by default those of `config`.

    Raises:
        ValueError: settings that do not go together, nothing in `begin` that fits.
        OSError: the data is missing.
    """
    row = row_of(name, config)
    task = train_task(row, config)
    learned, adapted = row.start(task, config.seed)
    if begin is not None:
        learned = _begin_with(begin, learned)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "rule"))
        rule = row.make_rule(adapted)
    settings = train_settings(row, config) if settings is None else settings
    if "gates_every" not in config.train and not list(rule.parameters()):
        settings = replace(settings, gates_every=0)  # there are none
    return MetaTrainer(
        rule,
        task,
        settings,
        initialization=learned,
        folder=folder,
        device=device,
        validate=_validator(row, config, device),
    )


def _validator(
    row: FewShotMethod, config: FewShotConfig, device: torch.device
) -> EpisodeValidator | None:
    if not config.validate:
        return None
    task = test_task(row, config, split="validation")
    return EpisodeValidator(row, task, config.validate, config.seed, device)


def _begin_with(begin: Mapping[str, Tensor], learned: Tensors) -> Tensors:
    """Replace what is there under the same name, but for a head of other classes."""
    begin = {
        key: value
        for key, value in begin.items()
        if not key.startswith(HEAD) or learned.get(key, value).shape == value.shape
    }
    if not begin.keys() & learned.keys():
        raise ValueError(
            f"the initialisation to begin with has {', '.join(begin)}, but the row learns "
            f"{', '.join(learned) or 'none'}"
        )
    for key, value in learned.items():
        if key in begin and begin[key].shape != value.shape:
            raise ValueError(
                f"parameter {key!r} is {list(begin[key].shape)} in the initialisation to begin "
                f"with and {list(value.shape)} in the row's network"
            )
    return {key: begin.get(key, value).clone() for key, value in learned.items()}


def take(name: str, trainer: MetaTrainer, config: FewShotConfig) -> Trained:
    """What a trainer has learned, for the row to be tested with.

    Args:
        name: of the row, or of one that uses what the trainer's row has learned.
        trainer: has trained.
        config: see there.
    """
    row = row_of(name, config)
    task = test_task(row, config)
    rule, phi = row.ready(trainer.kept, task)
    settings = trainer.settings
    facts = {
        "source": row.source,
        "outer_steps": trainer.outer_step,
        "minutes": round(trainer.seconds / 60, 2),
        "diverged_runs": trainer.diverged,
        "skipped_steps": trainer.meta_optimizer.skipped,
        "inner_steps": {"training": list(settings.horizons), "testing": row.test_steps},
        "inner_lr": row.inner_lr,
        "episodes_of": _episodes_of(task),
        "transductive": row.transductive and config.data == "omniglot",
        "device": str(trainer.device),
        "adapted_parameters": _adapted(row, task),
        "learned_parameters": sum(p.numel() for p in trainer.kept.parameters()),
        "train": asdict(settings),
        "validation": _validation(trainer, config),
    }
    return Trained(name, row, rule, phi, facts)


def _validation(trainer: MetaTrainer, config: FewShotConfig) -> dict[str, Any] | None:
    """What picked the weights that are kept, if anything did."""
    if trainer.validate is None:
        return None
    error = trainer.best_value
    return {"episodes": config.validate, "error": error if math.isfinite(error) else None}


def _episodes_of(task: EpisodeTask | ScoredEpisodes) -> dict[str, Any]:
    """Settings of test episodes and of their network, but for where the data lies."""
    own = task.task if isinstance(task, ScoredEpisodes) else task
    return {k: v for k, v in asdict(own).items() if k not in ("folder", "download")}


def _adapted(row: FewShotMethod, task: EpisodeTask | ScoredEpisodes) -> int:
    if isinstance(task, ScoredEpisodes):
        return task.module.solved_parameters
    return _count(row.start(task)[1])


def _count(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for value in tensors.values())


def judge(trained: Trained, config: FewShotConfig, device: torch.device) -> Evaluation:
    """Test a row that was trained."""
    row = trained.row
    if row.method is not None:
        steps: tuple[int, ...] = (0,)
    elif config.steps is not None:
        steps = config.steps
    else:
        every = JUDGED_STEPS if config.data == "sine" else (0, 1)
        steps = tuple(sorted({*every, row.test_steps}))
    return evaluate(
        trained.rule,
        trained.phi,
        test_task(row, config),
        steps=steps,
        episodes=config.episodes,
        seed=derive_seed(config.seed, "test"),
        lr=row.inner_lr,
        total_steps=max(row.test_steps, 1),
        proximal=row.proximal,
        device=device,
        progress=config.progress,
    )
