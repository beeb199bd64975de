"""Signals: few-shot classification that needs no files, and all training classes at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from meta_train.tasks.data.signals import POINTS, read_signals
from meta_train.tasks.episodes.images import ImageClasses, ImageEpisodes, ImageSource
from meta_train.tasks.episodes.networks import FewShotNetwork, make_shaped_network


@dataclass(frozen=True, kw_only=True)
class _SignalSettings(ImageSource):
    pool: str = "flatten"

    title: ClassVar[str] = "Signals"
    image_shape: ClassVar[tuple[int, int, int]] = (1, 1, POINTS)

    def make_network(self, outputs: int) -> FewShotNetwork:
        return make_shaped_network(
            self.architecture,
            self.image_shape,
            outputs,
            hidden=self.hidden,
            pool=self.pool,
            batch_norm=self.batch_norm,
        )

    def images(self) -> Tensor:
        """Signals of the split, `[classes, 50, 1, 40]`, uint8."""
        return read_signals(self.split)


@dataclass(frozen=True, kw_only=True)
class SignalEpisodes(_SignalSettings, ImageEpisodes):
    """N-way K-shot episodes of signals; see `meta_train.tasks.data.signals`.

    There are 64 classes for training, 20 for validation and 40 for testing, and 50 signals of each.
    Settings are those of `ImageSource` and `ImageEpisodes`.

    Examples:
        >>> SignalEpisodes(ways=5, shots=1, queries=15, split="test")
    """


@dataclass(frozen=True, kw_only=True)
class SignalClasses(_SignalSettings, ImageClasses):
    """Ordinary supervised training on all classes of a split."""
