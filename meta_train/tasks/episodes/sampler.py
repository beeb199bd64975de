"""N-way K-shot episodes from an array of images (Vinyals et al. 2016, arXiv 1606.04080)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Episode(NamedTuple):
    """A few-shot classification problem, sorted by class.

    Attributes:
        support_x: images `[ways * shots, channels, H, W]`, values from 0 to 1.
        support_y: classes `[ways * shots]`, 0 to ways - 1.
        query_x: images `[ways * queries, channels, H, W]`.
        query_y: classes `[ways * queries]`.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor


class EpisodeSampler:
    """Draws episodes: classes without replacement, and images of each class without replacement.

    Examples:
        ::

            sampler = EpisodeSampler(images, ways=5, shots=1, queries=15)
            episode = sampler.draw(torch.Generator().manual_seed(0), torch.device("cpu"))

    Args:
        images: `[classes, per_class, H, W]` or `[classes, per_class, channels, H, W]`, uint8.
        ways: classes per episode (N).
        shots: support images per class (K).
        queries: query images per class.
        rotations: add each class rotated by 90, 180 and 270 degrees as three more classes (Santoro
            et al. 2016, arXiv 1605.06065).

    Raises:
        ValueError: a number below 1, or more classes or images per class than `images` has.
    """

    def __init__(
        self, images: Tensor, *, ways: int, shots: int, queries: int, rotations: bool = True
    ) -> None:
        if images.dim() not in (4, 5):
            raise ValueError(
                "images must be [classes, per_class, H, W], with channels before H if in colour, "
                f"got shape {list(images.shape)}"
            )
        if rotations and images.shape[-2] != images.shape[-1]:
            raise ValueError(f"only square images can be rotated, got {list(images.shape)}")
        if images.dim() == 4:
            images = images.unsqueeze(2)
        self.images = rotated(images) if rotations else images
        self.ways, self.shots, self.queries = ways, shots, queries
        classes, per_class = self.images.shape[:2]
        if not 1 <= ways <= classes:
            raise ValueError(f"ways must be from 1 to the {classes} classes, got {ways}")
        if shots < 1 or queries < 1 or shots + queries > per_class:
            raise ValueError(
                f"shots and queries must be at least 1 and together at most the {per_class} images "
                f"of a class, got {shots} and {queries}"
            )
        self._on: dict[torch.device, Tensor] = {}

    def draw(
        self,
        generator: torch.Generator,
        device: torch.device,
        identity: torch.Generator | None = None,
    ) -> Episode:
        """Draw an episode. Equal generators draw equal episodes.

        Args:
            generator: the source of randomness.
            device: the device of the images.
            identity: draws the classes and their order instead of `generator`. Equal ones give the
                same few-shot task with other images.
        """
        images = self._images_on(device)
        classes, per_class = images.shape[:2]
        identity = generator if identity is None else identity
        chosen = torch.randperm(classes, generator=identity)[: self.ways, None]
        order = torch.rand(self.ways, per_class, generator=generator).argsort(1)
        rows = (chosen * per_class + order[:, : self.shots + self.queries]).to(device)
        # Converted here because all images as floats would take four times the memory.
        drawn = images.flatten(0, 1)[rows].float() / 255
        support, query = drawn.split([self.shots, self.queries], 1)
        labels = torch.arange(self.ways, device=device)
        return Episode(
            support.flatten(0, 1),
            labels.repeat_interleave(self.shots),
            query.flatten(0, 1),
            labels.repeat_interleave(self.queries),
        )

    def draw_batch(
        self, generator: torch.Generator, device: torch.device, size: int
    ) -> tuple[Tensor, Tensor]:
        """Draw images `[size, channels, H, W]` with replacement, and their classes `[size]`."""
        images = self._images_on(device)
        rows = torch.randint(images.shape[0] * images.shape[1], (size,), generator=generator).to(
            device
        )
        drawn = images.flatten(0, 1)[rows].float() / 255
        return drawn, rows // images.shape[1]

    def _images_on(self, device: torch.device) -> Tensor:
        if device not in self._on:
            self._on[device] = self.images.to(device)
        return self._on[device]


def rotated(images: Tensor) -> Tensor:
    """All classes rotated by 0, then 90, 180 and 270 degrees, `[4 * classes, ..., H, W]`."""
    return torch.cat([torch.rot90(images, turns, (-2, -1)) for turns in range(4)])
