"""The data sets of few-shot jobs, by the names that `--data` takes."""

from __future__ import annotations

from collections.abc import Mapping

from meta_train.tasks.data.omniglot import DRAWINGS
from meta_train.tasks.data.signals import PER_CLASS as SIGNALS
from meta_train.tasks.episodes.base import EpisodeTask
from meta_train.tasks.episodes.images import ImageEpisodes
from meta_train.tasks.episodes.mini_imagenet import MiniImageNetEpisodes
from meta_train.tasks.episodes.omniglot import OmniglotEpisodes
from meta_train.tasks.episodes.signals import SignalEpisodes
from meta_train.tasks.episodes.sine import Sine

IMAGES: dict[str, type[ImageEpisodes]] = {
    "signals": SignalEpisodes,
    "omniglot": OmniglotEpisodes,
    "miniimagenet": MiniImageNetEpisodes,
}
DATA: Mapping[str, type[EpisodeTask]] = {"sine": Sine, **IMAGES}
PER_CLASS = {"signals": SIGNALS, "omniglot": DRAWINGS, "miniimagenet": 600}
"""Images of each class."""
