"""The base of losses with a margin: a loss of embedded images and their classes."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot

from meta_train.runtime.checks import check_at_least


class MarginLoss(nn.Module, ABC):
    """A loss of a batch of embedded images of many classes.

    It has no branch that depends on values, so it runs under `torch.func.vmap`.
    """

    @property
    def drawings(self) -> int | None:
        """Images of each class in a batch; None for images of any classes."""
        return None

    @abstractmethod
    def forward(self, embedded: Tensor, labels: Tensor, outer_step: Tensor) -> Tensor:
        """The loss, 0-dim.

        Args:
            embedded: embedded images, `[M, features]`.
            labels: their classes, `[M]`.
            outer_step: outer steps taken before this one, 0-dim.
        """


class AngularMargin(MarginLoss):
    """Cross-entropy of scaled cosines with one weight vector per class.

    Weight vectors are normalised and there is no bias: the score of class j for an embedding x is a
    scale times cos theta_j, the cosine of the angle between x and the vector of j. A margin lowers
    the score of the own class alone, so training must bring x nearer to its vector than plain
    cross-entropy asks.

    Args:
        classes: number of classes.
        features: size of the embedding.
    """

    def __init__(self, *, classes: int, features: int) -> None:
        super().__init__()
        check_at_least(2, classes=classes)
        self.classes = classes
        self.weight = nn.Parameter(normalize(torch.randn(classes, features), dim=-1))

    @abstractmethod
    def with_margin(self, cosines: Tensor, outer_step: Tensor) -> Tensor:
        """What replaces the cosines with the own class, `[M, 1]`."""

    @abstractmethod
    def scale_of(self, embedded: Tensor) -> Tensor | float:
        """The scale of the scores: a number, or `[M, 1]`."""

    def forward(self, embedded: Tensor, labels: Tensor, outer_step: Tensor) -> Tensor:
        """See `MarginLoss`."""
        return cross_entropy(self.scores(embedded, labels, outer_step), labels)

    def scores(self, embedded: Tensor, labels: Tensor, outer_step: Tensor) -> Tensor:
        """The scores in training, `[M, classes]`, with the margin in the column of the own class.

        Arguments are those of `forward`.
        """
        cosines = normalize(embedded, dim=-1) @ normalize(self.weight, dim=-1).T
        own = cosines.gather(1, labels.unsqueeze(1))
        is_own = one_hot(labels, self.classes) == 1
        return self.scale_of(embedded) * torch.where(
            is_own, self.with_margin(own, outer_step), cosines
        )
