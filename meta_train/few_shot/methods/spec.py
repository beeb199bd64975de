"""A row of the registry: one few-shot method, its paper, its settings and published figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from meta_train.few_shot.methods.settings import MethodSettings

PublishedFigures = Mapping[tuple[int, int], tuple[float, float | None]]
"""Accuracy and half its interval (None: not given), in percent, by (ways, shots)."""


@dataclass(frozen=True, kw_only=True)
class FewShotMethod:
    """A published few-shot method, or a variant of one.

    Attributes:
        source: the paper, or what the variant changes.
        omniglot: settings on Omniglot, for 5-way 1-shot episodes.
        twenty_ways: overrides for 20-way episodes.
        five_shots: overrides for 5-shot episodes.
        sine: settings on sine curves; None where the method only classifies.
        published: accuracies of the paper on Omniglot, by (ways, shots).
        published_as: the method that those figures belong to, if it is more than this one.
        published_by_instance: accuracies of the paper in percent, by instance, of a reader.
    """

    source: str
    omniglot: MethodSettings
    twenty_ways: Mapping[str, Any] = field(default_factory=dict)
    five_shots: Mapping[str, Any] = field(default_factory=dict)
    sine: MethodSettings | None
    published: PublishedFigures = field(default_factory=dict)
    published_as: str = ""
    published_by_instance: Mapping[int, float] = field(default_factory=dict)

    def on_omniglot(self, ways: int, shots: int) -> MethodSettings:
        """Settings for N-way K-shot episodes; overrides for ways win over those for shots.

        Args:
            ways: classes per episode (N).
            shots: support images per class (K).
        """
        five_shots = self.five_shots if shots >= 5 else {}
        twenty_ways = self.twenty_ways if ways >= 20 else {}
        return replace(self.omniglot, **{**five_shots, **twenty_ways})

    def on_sine(self, name: str = "this method") -> MethodSettings:
        """Settings for sine curves.

        Args:
            name: of the method, for the message.

        Raises:
            ValueError: the method only classifies.
        """
        if self.sine is None:
            raise ValueError(
                f"{name} ({self.source}) only classifies: use --data signals, omniglot or "
                "miniimagenet"
            )
        return self.sine


def published(*figures: tuple[float, float] | float) -> PublishedFigures:
    """Figures of 5-way 1-shot, 5-way 5-shot, 20-way 1-shot and 20-way 5-shot, in this order.

    Args:
        *figures: accuracy in percent, or (accuracy, half its interval).
    """
    places = ((5, 1), (5, 5), (20, 1), (20, 5))
    pairs = (figure if isinstance(figure, tuple) else (figure, None) for figure in figures)
    return dict(zip(places, pairs, strict=True))
