"""All classes of a split as one problem, whose loss has a margin."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor, nn

from learned_opt.adaptation.module_copy import call_with_tensors
from learned_opt.registry import create
from meta_train.few_shot.margins.arcface import ArcFace
from meta_train.few_shot.margins.base import MarginLoss
from meta_train.few_shot.margins.cosface import CosFace
from meta_train.few_shot.margins.sphereface import SphereFace
from meta_train.few_shot.margins.triplet import Triplet
from meta_train.runtime.seeding import seeded_cpu
from meta_train.tasks.base import Batch, Problem, SampledTask, Task, Tensors
from meta_train.tasks.episodes.images import ImageClasses
from meta_train.tasks.episodes.networks import FewShotNetwork
from meta_train.tasks.episodes.sampler import EpisodeSampler

MARGINS: Mapping[str, type[MarginLoss]] = MappingProxyType(
    {"sphereface": SphereFace, "cosface": CosFace, "arcface": ArcFace, "triplet": Triplet}
)


@final
class _EmbeddingAndLoss(nn.Module):
    """An embedding and its loss, `(images, labels, outer step) -> loss`.

    Parameters of the body have the names of the few-shot network, those of the loss begin with
    "head.": testing leaves them out.
    """

    def __init__(self, network: FewShotNetwork, head: MarginLoss) -> None:
        super().__init__()
        self.body = network.body
        self.head = head

    def forward(self, images: Tensor, labels: Tensor, outer_step: Tensor) -> Tensor:
        """The loss of a batch, 0-dim."""
        loss: Tensor = self.head(self.body(images), labels, outer_step)
        return loss


@final
class MarginClasses(Task):
    """Supervised training on all classes of a split, with a margin.

    With horizon 0 and a learned initialisation, the meta-gradient is the gradient of the loss on a
    batch. A batch is (images `[M, channels, H, W]`, classes `[M]`, outer step 0-dim).

    Args:
        classes: the images, and the size of a batch.
        margin: a name from `MARGINS`.
        **settings: settings of the loss's class.

    Raises:
        ValueError: an unknown loss or setting, or a batch that has less than 2 classes.

    Examples:
        >>> task = MarginClasses(OmniglotClasses(folder="data"), "arcface", scale=16.0)
        >>> start = task.template()
        >>> trainer = MetaTrainer(create_rule("sgd"), task, settings, initialization=start)
    """

    # Losses have a setting `margin` of their own: the arguments have no names.
    def __init__(self, classes: ImageClasses, margin: str, /, **settings: Any) -> None:
        for name in ("classes", "features"):
            if name in settings:
                raise ValueError(f"{name} is no setting: the data and the network decide it")
        self.classes = classes
        self.margin = margin
        self.settings = settings
        self.outer_step = 0
        drawings = self._make_loss(classes=2, features=1).drawings
        if drawings is not None:
            self._check_batch(drawings)
        self.drawings = drawings

    def _check_batch(self, drawings: int) -> None:
        size = self.classes.batch_size
        if size % drawings or size < 2 * drawings:
            raise ValueError(
                f"a batch must be {drawings} drawings of each of 2 or more classes, got batch_size "
                f"{size}"
            )

    def _make_loss(self, *, classes: int, features: int) -> MarginLoss:
        arguments = {"classes": classes, "features": features, **self.settings}
        return create("loss with a margin", self.margin, MARGINS, arguments)

    def _make(self, seed: int) -> _EmbeddingAndLoss:
        with seeded_cpu(seed):
            network = self.classes.make_network(1)
            count, features = len(self.classes.sampler.images), network.head.in_features
            return _EmbeddingAndLoss(network, self._make_loss(classes=count, features=features))

    @cached_property
    def network(self) -> _EmbeddingAndLoss:
        """The module; copies of it run with given parameters. Its first use reads the data."""
        return self._make(0)

    @cached_property
    def _groups(self) -> EpisodeSampler:
        """Draws batches of a few images of each of some classes."""
        assert self.drawings is not None
        images, size = self.classes.sampler.images, self.classes.batch_size
        ways = size // self.drawings
        if ways > len(images):
            raise ValueError(
                f"a batch of {size} images with {self.drawings} of a class has {ways} classes, but "
                f"there are {len(images)}"
            )
        if self.drawings > images.shape[1]:
            raise ValueError(f"a class has {images.shape[1]} images, got drawings={self.drawings}")
        return EpisodeSampler(
            images, ways=ways, shots=self.drawings - 1, queries=1, rotations=False
        )

    def template(self, *, seed: int = 0) -> Tensors:
        """Initial parameters of the embedding and the loss, for a random seed."""
        made = self.network if seed == 0 else self._make(seed)
        return {key: value.detach().clone() for key, value in made.named_parameters()}

    def begin_outer_step(self, outer_step: int) -> None:
        """See `Task`: margins may grow in training."""
        self.outer_step = outer_step

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """All classes; initial parameters are those of seed 0."""

        def draw(batches: torch.Generator) -> Batch:
            return *self._draw(batches, device), torch.tensor(self.outer_step, device=device)

        buffers = self.network.named_buffers()
        return Problem(
            parameters={key: value.to(device) for key, value in self.template().items()},
            buffers={key: value.detach().to(device) for key, value in buffers},
            loss=self.loss,
            draw=draw,
            full=lambda: draw(torch.Generator().manual_seed(0)),
            draw_validation=draw,
        )

    def _draw(self, batches: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images, and classes by which they may be told apart."""
        if self.drawings is None:
            return self.classes.sampler.draw_batch(batches, device, self.classes.batch_size)
        drawn = self._groups.draw(batches, device)
        images = torch.cat([drawn.support_x, drawn.query_x])
        return images, torch.cat([drawn.support_y, drawn.query_y])

    def loss(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The loss on a batch, 0-dim, and the new buffers."""
        loss, after = call_with_tensors(
            self.network, {**parameters, **buffers}, lambda network: network(*batch)
        )
        assert isinstance(loss, Tensor)
        return loss, {key: after[key] for key in buffers}

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """See `Task`."""
        return SampledTask(self.margin, self)
