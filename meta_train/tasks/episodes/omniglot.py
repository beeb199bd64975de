"""Omniglot: few-shot classification, and ordinary classification of all characters."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from learned_opt.adaptation.module_copy import call_with_tensors
from learned_opt.registry import look_up
from meta_train.runtime.checks import check_at_least
from meta_train.tasks.base import Batch, Problem, SampledTask, Task, Tensors
from meta_train.tasks.data.omniglot import read_omniglot
from meta_train.tasks.episodes.base import HEAD, EpisodeTask
from meta_train.tasks.episodes.networks import make_network
from meta_train.tasks.episodes.sampler import EpisodeSampler, rotated
from meta_train.tasks.episodes.splits import SPLIT_BY, SPLITS, split_characters

PARTS = {"background": ("background",), "all": ("background", "evaluation")}
"""Published sets to read: the 30 background alphabets, or all 50 alphabets."""


@dataclass(frozen=True, kw_only=True)
class _OmniglotSettings:
    folder: str | None = None
    part: str = "background"
    split: str = "train"
    split_by: str = "alphabet"
    rotations: bool = True
    download: bool = False
    architecture: str = "conv4"
    hidden: int = 64
    pool: str = "mean"
    batch_norm: str = "batch"

    def check_names(self) -> None:
        look_up("part of Omniglot", self.part, PARTS)
        look_up("split", self.split, dict.fromkeys(SPLITS))
        look_up("way to split", self.split_by, dict.fromkeys(SPLIT_BY))
        self.make_network(1)

    def make_network(self, outputs: int) -> nn.Module:
        return make_network(
            self.architecture,
            outputs,
            hidden=self.hidden,
            pool=self.pool,
            batch_norm=self.batch_norm,
        )

    def images(self) -> Tensor:
        """Images of the split, `[classes, 20, 28, 28]`, uint8, with rotated classes if set."""
        return read_split(
            self.folder, self.part, self.split, self.split_by, self.rotations, self.download
        )


@dataclass(frozen=True, kw_only=True)
class OmniglotEpisodes(_OmniglotSettings, EpisodeTask):
    """N-way K-shot episodes of characters. The loss is the cross-entropy.

    The files are read when the first episode is drawn.

    Example:
        The papers' protocol, 5-way 1-shot::

            OmniglotEpisodes(ways=5, shots=1, part="all", split_by="character", folder="data")

    Attributes:
        ways: classes per episode.
        shots: support images per class.
        queries: query images per class.
        folder: the folder of the archives; see `meta_train.tasks.data.omniglot.read_omniglot`.
        part: "background", or "all" for the papers' protocol.
        split: "train", "validation" or "test".
        split_by: "alphabet" or "character"; see `meta_train.tasks.episodes.splits`.
        rotations: add characters rotated by 90, 180 and 270 degrees as classes of their own.
        download: download missing files with torchvision.
        architecture: "conv4" or "dense"; see `meta_train.tasks.episodes.networks.make_network`.
        hidden: channels of conv4.
        pool: "mean" or "flatten"; see there.
        batch_norm: "batch" (transductive) or "support"; see there.
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
            return _built(self.build, generator)
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
        return SampledTask("omniglot", self)

    def validation(self) -> OmniglotEpisodes:
        """The validation characters."""
        return replace(self, split="validation")

    def held_out(self) -> dict[str, Task]:
        """The test characters."""
        return {"same family": replace(self, split="test")}


@dataclass(frozen=True, kw_only=True)
class OmniglotClasses(_OmniglotSettings, Task):
    """Ordinary supervised training: all characters of a split are the classes of one problem.

    Fine-tuning and nearest neighbour start from its result. Parameters have the same names as in
    `OmniglotEpisodes`; the head has one output per character.

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
        return _built(
            lambda: self.make_network(len(self.sampler.images)), torch.Generator().manual_seed(seed)
        )

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw initial parameters. Validation batches come from the same characters."""
        drawn = _built(lambda: self.make_network(len(self.sampler.images)), generator)

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


def _built(build: Any, generator: torch.Generator) -> Tensors:
    """Parameters of a new module. The weights depend only on `generator`."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module: nn.Module = build()
    return {key: value.detach() for key, value in module.named_parameters()}


@functools.lru_cache(maxsize=8)
def read_split(
    folder: str | None, part: str, split: str, split_by: str, rotations: bool, download: bool
) -> Tensor:
    """Read the images of a split, `[classes, 20, 28, 28]`, uint8; see `OmniglotEpisodes`."""
    parts = [read_omniglot(name, folder, download=download) for name in PARTS[part]]
    alphabets = [name for read in parts for name in read.alphabets]
    characters = [name for read in parts for name in read.characters]
    chosen = split_characters(alphabets, characters, split, split_by)
    images = torch.cat([torch.from_numpy(read.images) for read in parts])[chosen]
    return rotated(images) if rotations else images
