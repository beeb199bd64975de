"""The episodes that a method is meta-trained, validated and tested on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

from meta_train.few_shot.data_sets import IMAGES
from meta_train.few_shot.heads.episodes import EmbeddingEpisodes
from meta_train.few_shot.margins.task import MarginClasses
from meta_train.few_shot.methods import mini_imagenet
from meta_train.few_shot.methods.registry import get_method
from meta_train.few_shot.methods.settings import MethodSettings
from meta_train.few_shot.readers.episodes import SequenceEpisodes
from meta_train.few_shot.settings import FewShotConfig
from meta_train.tasks.episodes.base import EpisodeTask
from meta_train.tasks.episodes.images import ImageClasses, ImageEpisodes
from meta_train.tasks.episodes.mini_imagenet import MiniImageNetClasses
from meta_train.tasks.episodes.omniglot import OmniglotClasses
from meta_train.tasks.episodes.signals import SignalClasses
from meta_train.tasks.episodes.sine import Sine
from meta_train.tasks.episodes.stored_heads import StoredHeads

EvaluationTask: TypeAlias = EpisodeTask | EmbeddingEpisodes | SequenceEpisodes
TrainingTask: TypeAlias = EvaluationTask | ImageClasses | MarginClasses | StoredHeads

CLASSES: dict[str, type[ImageClasses]] = {
    "signals": SignalClasses,
    "omniglot": OmniglotClasses,
    "miniimagenet": MiniImageNetClasses,
}
"""All classes of a data set at once."""


def method_settings(name: str, config: FewShotConfig) -> MethodSettings:
    """Settings of a method on the data of a job, with the job's changes.

    Args:
        name: a name from `list_methods()`.
        config: the job.
    """
    method = get_method(name)
    if config.data == "sine":
        return replace(method.on_sine(name), **config.row_settings)
    settings = method.on_omniglot(config.ways, config.support_shots)
    if config.data == "miniimagenet":
        settings = replace(settings, **mini_imagenet.OVERRIDES.get(name, {}))
    return replace(settings, **config.row_settings)


def evaluation_task(
    method: MethodSettings, config: FewShotConfig, *, split: str = "test"
) -> EvaluationTask:
    """Episodes to test a method on, or to validate it on.

    Args:
        method: see `method_settings`.
        config: the job.
        split: "test" or "validation". Sine curves have no splits: other seeds draw other curves.
    """
    queries = config.query_examples(testing=True)
    if config.data == "sine":
        return _sine(method, config, queries)
    episodes = _images(method, config, config.ways, config.support_shots, queries, split)
    return _with_head(method, episodes)


def training_task(method: MethodSettings, config: FewShotConfig) -> TrainingTask:
    """Episodes, or all classes at once, to meta-train a method on.

    Args:
        method: see `method_settings`.
        config: the job.

    Raises:
        ValueError: the method has no training of its own.
    """
    if method.trained_on == "nothing":
        raise ValueError(
            f"this method is not trained: it takes the initialisation of {method.uses}"
        )
    queries = config.query_examples(testing=False)
    if config.data == "sine":
        return _with_stored_heads(method, _sine(method, config, queries))
    if method.trained_on == "classes":
        made = CLASSES[config.data]
        known = made.__dataclass_fields__
        settings = {**_data_folder(config), **config.task_settings}
        classes = made(**{k: v for k, v in settings.items() if k in known})
        if method.margin is None:
            return classes
        return MarginClasses(classes, method.margin, **method.margin_settings)
    shots = method.train_shots or config.support_shots
    ways = method.train_ways or config.ways
    episodes = _images(method, config, ways, shots, queries, "train")
    if method.stored_heads:
        return _with_stored_heads(method, episodes)
    return _with_head(method, episodes)


def _sine(method: MethodSettings, config: FewShotConfig, queries: int) -> Sine:
    return Sine(
        shots=config.support_shots,
        queries=queries,
        inner_batch=_at_most(method.inner_batch, config.support_shots),
        **_adaptation(method),
        **config.task_settings,
    )


def _images(
    method: MethodSettings, config: FewShotConfig, ways: int, shots: int, queries: int, split: str
) -> ImageEpisodes:
    made = IMAGES[config.data]
    files = _data_folder(config) if "folder" in made.__dataclass_fields__ else {}
    return made(
        ways=ways,
        shots=shots,
        queries=queries,
        inner_batch=_at_most(method.inner_batch, ways * shots),
        batch_norm=method.batch_norm,
        split=split,
        **_adaptation(method),
        **files,
        **config.task_settings,
    )


def _adaptation(method: MethodSettings) -> dict[str, Any]:
    fresh = "head" if method.initialization == "body" else "nothing"
    return {"adapted": method.adapted, "fresh": fresh}


def _data_folder(config: FewShotConfig) -> dict[str, Any]:
    folder = None if config.folder is None else str(config.folder)
    return {"folder": folder, "download": config.download}


def _at_most(size: int | None, support: int) -> int | None:
    return None if size is None else min(size, support)


def _with_head(
    method: MethodSettings, episodes: ImageEpisodes
) -> ImageEpisodes | EmbeddingEpisodes | SequenceEpisodes:
    if method.reader is not None:
        return SequenceEpisodes(
            episodes,
            method.reader,
            instances=method.instances,
            sequences=method.meta_batch,
            **method.reader_settings,
        )
    if method.head is None:
        return episodes
    return EmbeddingEpisodes(episodes, method.head, **method.head_settings)


def _with_stored_heads(method: MethodSettings, episodes: EpisodeTask) -> EpisodeTask | StoredHeads:
    if not method.stored_heads:
        return episodes
    return StoredHeads(replace(episodes, fresh="nothing"), method.stored_heads)
