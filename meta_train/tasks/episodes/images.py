"""Few-shot and ordinary classification of images, whatever data set they come from."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from learned_opt.adaptation.module_copy import call_with_tensors
from learned_opt.registry import look_up
from meta_train.runtime.checks import check_at_least
from meta_train.runtime.seeding import seeded_cpu
from meta_train.tasks.base import Batch, Problem, SampledTask, Task, Tensors
from meta_train.tasks.episodes.base import HEAD, EpisodeTask
from meta_train.tasks.episodes.networks import FewShotNetwork
from meta_train.tasks.episodes.sampler import EpisodeSampler
from meta_train.tasks.episodes.splits import SPLITS


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """A data set of images with its splits into classes, and the network that reads them.

    Attributes:
        split: "train", "validation" or "test".
        architecture: "conv4" or "dense".
        hidden: channels of conv4.
        pool: "mean" or "flatten", how conv4 ends.
        batch_norm: "batch" (transductive) or "support"; see
            `meta_train.tasks.episodes.networks.make_network`.
    """

    split: str = "train"
    architecture: str = "conv4"
    hidden: int = 64
    pool: str = "mean"
    batch_norm: str = "batch"

    title: ClassVar[str]
    """The data set's name in tables."""
    image_shape: ClassVar[tuple[int, int, int]]
    """Channels, height and width of an image."""

    @abstractmethod
    def images(self) -> Tensor:
        """Images of the split, `[classes, per_class, (channels,) H, W]`, uint8."""

    @abstractmethod
    def make_network(self, outputs: int) -> FewShotNetwork:
        """Make the network; its head has `outputs` outputs.

        Raises:
            ValueError: names the setting and the value.
        """

    def check_names(self) -> None:
        """Refuse settings that no network or split has."""
        look_up("split", self.split, dict.fromkeys(SPLITS))
        self.make_network(1)


@dataclass(frozen=True, kw_only=True)
class ImageEpisodes(ImageSource, EpisodeTask):
    """N-way K-shot episodes of images. The loss is the cross-entropy.

    Files are read when the first episode is drawn.

    Attributes:
        ways: classes per episode.
        shots: support images per class.
        queries: query images per class.
    """

    ways: int = 5
    shots: int = 1
    queries: int = 1

    metric: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        """See `EpisodeTask`."""
        check_at_least(2, ways=self.ways)
        super().__post_init__()
        self.check_names()

    @property
    def support_size(self) -> int:
        """See `EpisodeTask`."""
        return self.ways * self.shots

    @cached_property
    def sampler(self) -> EpisodeSampler:
        """The sampler of episodes. Its first use reads the data."""
        return EpisodeSampler(
            self.images(),
            ways=self.ways,
            shots=self.shots,
            queries=self.queries,
            rotations=False,  # `images` has added them
        )

    def build(self) -> nn.Module:
        """See `EpisodeTask`."""
        return self.make_network(self.ways)

    def draw_parameters(self, generator: torch.Generator, *, head_only: bool) -> Tensors:
        """Draw parameters with the default initialisation of their layers."""
        if not head_only:
            return built(self.build, generator)
        # The default distribution of nn.Linear, without building a layer.
        drawn = {}
        for name, value in self.network.named_parameters():
            if name.startswith(HEAD):
                bound = 1 / math.sqrt(self.network.get_parameter(f"{HEAD}weight").shape[1])
                drawn[name] = (2 * torch.rand(value.shape, generator=generator) - 1) * bound
        return drawn

    def draw_episode(
        self,
        generator: torch.Generator,
        device: torch.device,
        identity: torch.Generator | None = None,
    ) -> tuple[Batch, Batch]:
        """Draw classes, and images of each."""
        episode = self.sampler.draw(generator, device, identity)
        return (episode.support_x, episode.support_y), (episode.query_x, episode.query_y)

    def loss_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy."""
        return nn.functional.cross_entropy(outputs, targets)

    def score_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The accuracy: the fraction of images whose class scores highest."""
        return (outputs.argmax(-1) == targets).float().mean()

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """See `Task`."""
        return SampledTask(self.title.lower(), self)

    def validation(self) -> Self:
        """The validation classes."""
        return replace(self, split="validation")

    def held_out(self) -> dict[str, Task]:
        """The test classes."""
        return {"same family": replace(self, split="test")}


@dataclass(frozen=True, kw_only=True)
class ImageClasses(ImageSource, Task):
    """Ordinary supervised training: all classes of a split are the classes of one problem.

    Fine-tuning and nearest neighbour start from its result. Parameters have the same names as in
    `ImageEpisodes`; the head has one output per class.

    Attributes:
        batch_size: images per batch, drawn with replacement.
    """

    batch_size: int = 64

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: names the setting and the value.
        """
        if self.batch_size < 2:
            raise ValueError(
                f"batch_size must be at least 2 for batch normalisation, got {self.batch_size}"
            )
        self.check_names()

    @cached_property
    def sampler(self) -> EpisodeSampler:
        """The sampler of images. Its first use reads the data."""
        return EpisodeSampler(self.images(), ways=1, shots=1, queries=1, rotations=False)

    @cached_property
    def network(self) -> nn.Module:
        """The module; copies of it run with given parameters."""
        return self.make_network(len(self.sampler.images))

    def template(self, *, seed: int = 0) -> Tensors:
        """Initial parameters, for a random seed."""
        return built(
            lambda: self.make_network(len(self.sampler.images)), torch.Generator().manual_seed(seed)
        )

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw initial parameters. Validation batches come from the same classes."""
        drawn = built(lambda: self.make_network(len(self.sampler.images)), generator)

        def draw(batches: torch.Generator) -> Batch:
            return self.sampler.draw_batch(batches, device, self.batch_size)

        return Problem(
            parameters={key: value.to(device) for key, value in drawn.items()},
            buffers={k: v.detach().to(device) for k, v in self.network.named_buffers()},
            loss=self.loss,
            draw=draw,
            full=lambda: draw(torch.Generator().manual_seed(0)),
            draw_validation=draw,
        )

    def loss(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The cross-entropy on a batch `(images, classes)`, and the new buffers."""
        inputs, targets = batch
        outputs, after = call_with_tensors(
            self.network, {**parameters, **buffers}, lambda network: network(inputs)
        )
        loss = nn.functional.cross_entropy(outputs, targets)
        return loss, {key: after[key] for key in buffers}


def built(build: Callable[[], nn.Module], generator: torch.Generator) -> Tensors:
    """Parameters of a new module. The weights depend only on `generator`."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with seeded_cpu(seed):
        module = build()
    return {key: value.detach() for key, value in module.named_parameters()}
