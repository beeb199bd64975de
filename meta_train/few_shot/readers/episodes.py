"""Sequences of images and classes that a network reads one by one, as tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn

from learned_opt.adaptation.module_copy import call_with_tensors
from learned_opt.registry import create
from meta_train.few_shot.readers.base import SequenceReader
from meta_train.few_shot.readers.lstm import LSTMReader
from meta_train.few_shot.readers.mann import MANN
from meta_train.runtime.checks import check_at_least
from meta_train.runtime.seeding import seeded_cpu
from meta_train.tasks.base import Batch, Problem, SampledTask, Task, Tensors
from meta_train.tasks.episodes.images import ImageEpisodes
from meta_train.tasks.episodes.sampler import EpisodeSampler

READERS: Mapping[str, type[SequenceReader]] = MappingProxyType({"lstm": LSTMReader, "mann": MANN})
SIZE = 20
"""Largest side of an image in pixels; larger ones are averaged over areas (the paper's)."""


class SequenceEpisodes(Task):
    """Sequences of N classes with `instances` images of each, in random order.

    Which class has which number is drawn anew for each sequence, so that only the sequence itself
    tells it (Santoro et al. 2016, arXiv 1605.06065, section 2). The loss is the mean cross-entropy
    over all images. A problem holds several sequences, which run at once.

    Args:
        episodes: its classes, split and number of classes per sequence (ways) are taken.
        reader: a name from `READERS`.
        instances: images per class in a sequence.
        sequences: sequences per problem.
        **settings: settings of the reader's class.

    Raises:
        ValueError: an unknown reader or setting, `instances` below 2, or `sequences` below 1.

    Examples:
        >>> episodes = OmniglotEpisodes(ways=5, split="test")
        >>> task = SequenceEpisodes(episodes, "mann")
        >>> evaluate_by_instance(task, task.template(), episodes=100).mean(10)
    """

    metric = "accuracy"

    def __init__(
        self,
        episodes: ImageEpisodes,
        reader: str,
        *,
        instances: int = 10,
        sequences: int = 16,
        **settings: Any,
    ) -> None:
        check_at_least(2, instances=instances)
        check_at_least(1, sequences=sequences)
        self.episodes = episodes
        self.reader = reader
        self.instances = instances
        self.sequences = sequences
        self.settings = settings
        self.network = self._build(0)

    @cached_property
    def sampler(self) -> EpisodeSampler:
        """The sampler of images. Its first use reads the data."""
        return EpisodeSampler(
            shrunk(self.episodes.images()),
            ways=self.episodes.ways,
            shots=self.instances - 1,
            queries=1,
            rotations=False,  # `images` has added them
        )

    def _build(self, seed: int) -> SequenceReader:
        channels, *sides = self.episodes.image_shape
        height, width = small_size(*sides)
        arguments = {
            "pixels": channels * height * width,
            "ways": self.episodes.ways,
            **self.settings,
        }
        with seeded_cpu(seed):
            return create("reader", self.reader, READERS, arguments)

    def template(self, device: torch.device | None = None, seed: int = 0) -> Tensors:
        """Initial parameters of the network, by name."""
        network = self.network if seed == 0 else self._build(seed)
        device = device or torch.device("cpu")
        return {key: value.detach().to(device) for key, value in network.named_parameters()}

    def draw_sequence(
        self, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Draw a sequence: images `[T, pixels]` and their classes `[T]`."""
        drawn = self.sampler.draw(generator, device)
        images = torch.cat([drawn.support_x, drawn.query_x]).flatten(1)
        labels = torch.cat([drawn.support_y, drawn.query_y])
        order = torch.randperm(len(labels), generator=generator).to(device)
        return images[order], labels[order]

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw the sequences of a problem."""
        drawn = [self.draw_sequence(generator, device) for _ in range(self.sequences)]
        images, labels = (torch.stack(part) for part in zip(*drawn, strict=True))
        batch = images, labels
        return Problem(
            parameters=self.template(device),
            buffers={},
            loss=self.loss,
            draw=lambda _: batch,
            full=lambda: batch,
            draw_validation=lambda _: batch,
        )

    def loss(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """Mean cross-entropy on a batch (images, labels), and the buffers, of which are none."""
        images, labels = batch
        scores = self.predict(parameters, images, labels)
        return nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten()), buffers

    def predict(self, parameters: Tensors, images: Tensor, labels: Tensor) -> Tensor:
        """Scores `[sequences, T, ways]`, from images `[sequences, T, pixels]` and their classes."""
        scores: Tensor
        scores, _ = call_with_tensors(
            self.network, dict(parameters), lambda network: network(images, labels)
        )
        return scores

    def with_settings(self, **settings: Any) -> Self:
        """The same network on episodes with other settings."""
        return type(self)(
            replace(self.episodes, **settings),
            self.reader,
            instances=self.instances,
            sequences=self.sequences,
            **self.settings,
        )

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """See `Task`."""
        return SampledTask(self.reader, self)

    def validation(self) -> SequenceEpisodes:
        """Sequences of the validation split."""
        return self.with_settings(split="validation")

    def held_out(self) -> dict[str, Task]:
        """Sequences of the test split."""
        return {"same family": self.with_settings(split="test")}


def small_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of an image that a reader reads: at most `SIZE` each."""
    return min(height, SIZE), min(width, SIZE)


def shrunk(images: Tensor) -> Tensor:
    """Images averaged over areas to their `small_size`.

    Args:
        images: `[classes, per_class, (channels,) H, W]`, uint8.
    """
    # One class at a time: all images as floats would take four times the memory.
    return torch.stack([_shrunk(of_class) for of_class in images])


def _shrunk(images: Tensor) -> Tensor:
    size = small_size(*images.shape[-2:])
    maps = images.reshape(-1, 1, *images.shape[-2:]).float()
    small = nn.functional.interpolate(maps, size=size, mode="area").round().to(torch.uint8)
    return small.reshape(*images.shape[:-2], *size)
