"""The contract of networks that read a training set as a sequence."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn


class SequenceReader(nn.Module):
    """A network that sees images one by one and names the class of each; then it is told.

    At step t it reads (x_t, y_{t-1}): an image, and the class of the image before, one-hot (zero
    at first). The class of x_t arrives one step later, so the network must keep x_t until then and
    bind the two (Santoro et al. 2016, arXiv 1605.06065, section 2).

    Args:
        pixels: numbers per image.
        ways: classes per sequence (N).
    """

    def __init__(self, pixels: int, ways: int) -> None:
        super().__init__()
        self.pixels = pixels
        self.ways = ways

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Score the classes of all images of some sequences, each from what came before it.

        Args:
            images: `[sequences, T, pixels]`.
            labels: their classes, `[sequences, T]`.

        Returns:
            `[sequences, T, ways]`; the highest score wins.
        """
        known = nn.functional.one_hot(labels, self.ways).to(images)
        before = torch.cat([torch.zeros_like(known[:, :1]), known[:, :-1]], 1)
        return self.scores(torch.cat([images, before], -1))

    @abstractmethod
    def scores(self, inputs: Tensor) -> Tensor:
        """Score the classes at each step.

        Args:
            inputs: x_t beside y_{t-1}, `[sequences, T, pixels + ways]`.

        Returns:
            `[sequences, T, ways]`.
        """
