"""What few-shot tasks share: an episode is a problem with a support set and a query set."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from learned_opt.registry import look_up
from meta_train.tasks.base import Batch, Problem, Task, Tensors

ADAPTED = ("all", "head")
FRESH = ("nothing", "head", "all")
HEAD = "head."
"""Parameters of this prefix are the head, in every network of episodes."""


@dataclass(frozen=True, kw_only=True)
class EpisodeTask(Task):
    """Episodes: inner training sees the support set, the query set judges it.

    Drawing one is cheap, as dozens are drawn for each outer step: no module is built, and what is
    not drawn anew is shared.

    Attributes:
        shots: support examples (of a class).
        queries: query examples (of a class).
        adapted: "all" parameters, or those of the "head" only, the rest being `Problem.fixed`
            (ANIL: Raghu et al. 2019, arXiv 1909.09157).
        fresh: which parameters are drawn anew for each episode: "nothing", the "head", or "all". A
            learned initialisation takes the place of those that it has.
        inner_batch: each step trains on so many examples of the support set, drawn without
            repetition; None trains on all of it.
    """

    shots: int
    queries: int
    adapted: str = "all"
    fresh: str = "nothing"
    inner_batch: int | None = None

    metric: ClassVar[str]
    """What `score` is: "accuracy" or "MSE"."""

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: names the setting and the value.
        """
        look_up("choice of adapted parameters", self.adapted, dict.fromkeys(ADAPTED))
        look_up("choice of fresh parameters", self.fresh, dict.fromkeys(FRESH))
        for name in ("shots", "queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.inner_batch is not None and not 1 <= self.inner_batch <= self.support_size:
            raise ValueError(
                f"inner_batch must be from 1 to the {self.support_size} support examples, got "
                f"{self.inner_batch}"
            )

    @property
    def support_size(self) -> int:
        """Examples in the support set."""
        return self.shots

    @abstractmethod
    def build(self) -> nn.Module:
        """Make the network, its initial weights from torch's global generator."""

    @abstractmethod
    def draw_parameters(self, generator: torch.Generator, *, head_only: bool) -> Tensors:
        """Draw initial parameters by name, on the CPU."""

    @abstractmethod
    def draw_episode(
        self,
        generator: torch.Generator,
        device: torch.device,
        identity: torch.Generator | None = None,
    ) -> tuple[Batch, Batch]:
        """Draw the support and the query set, each inputs and targets.

        Args:
            generator: of everything.
            device: of the tensors.
            identity: of what makes the task (its classes, its curve), in place of it.
        """

    @abstractmethod
    def loss_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of the network's outputs, 0-dim."""

    @abstractmethod
    def score_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The metric of the network's outputs, 0-dim."""

    @cached_property
    def network(self) -> nn.Module:
        """The skeleton that parameters are put into, in training mode."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return self.build()

    @cached_property
    def judged_network(self) -> nn.Module:
        """The same in evaluation mode."""
        return copy.deepcopy(self.network).eval()

    @cached_property
    def _shared(self) -> dict[torch.device, tuple[Tensors, Tensors]]:
        return {}

    def template(self, device: torch.device | None = None, seed: int = 0) -> Tensors:
        """Where a learned initialisation starts; of seed 0, where problems start too.

        (Those whose parameters are not drawn anew.)
        """
        device = device or torch.device("cpu")
        shared = dict(self._template(device)[0])
        if seed == 0:
            return shared
        drawn = self.draw_parameters(torch.Generator().manual_seed(seed), head_only=False)
        return {key: value.to(device) for key, value in drawn.items()}

    def buffers(self, device: torch.device) -> Tensors:
        """Initial buffers."""
        return dict(self._template(device)[1])

    def _template(self, device: torch.device) -> tuple[Tensors, Tensors]:
        if device not in self._shared:
            drawn = self.draw_parameters(torch.Generator().manual_seed(0), head_only=False)
            buffers = dict(self.network.named_buffers())
            self._shared[device] = (
                {key: value.to(device) for key, value in drawn.items()},
                {key: value.detach().to(device) for key, value in buffers.items()},
            )
        return self._shared[device]

    def sample(self, generator: torch.Generator, device: torch.device) -> Problem:
        """Draw an episode, and the parameters that are fresh."""
        # First, so that the episode is the same whichever parameters are fresh.
        support, query = self.draw_episode(generator, device)
        shared, buffers = self._template(device)
        parameters = dict(shared)
        if self.fresh != "nothing":
            drawn = self.draw_parameters(generator, head_only=self.fresh == "head")
            parameters.update({key: value.to(device) for key, value in drawn.items()})
        fixed = {}
        if self.adapted == "head":
            fixed = {k: v for k, v in parameters.items() if not k.startswith(HEAD)}
            parameters = {k: v for k, v in parameters.items() if k.startswith(HEAD)}
        return Problem(
            parameters=parameters,
            buffers=dict(buffers),
            loss=self.loss,
            draw=self.drawer(support),
            full=lambda: support,
            draw_validation=lambda _: query,
            fixed=fixed,
        )

    def drawer(self, support: Batch) -> Callable[[torch.Generator], Batch]:
        """How to draw the batches of inner training out of a support set."""
        size = self.inner_batch
        if size is None:
            return lambda _: support
        inputs, targets = support

        def draw(batches: torch.Generator) -> Batch:
            rows = torch.randperm(len(targets), generator=batches)[:size].to(targets.device)
            return inputs[rows], targets[rows]

        return draw

    def loss(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The loss on `(inputs, targets)`, and the buffers afterwards."""
        inputs, targets = batch
        buffers = {key: value.clone() for key, value in buffers.items()}  # modules write in place
        outputs = functional_call(self.network, (parameters, buffers), (inputs,))
        return self.loss_of(outputs, targets), buffers

    def predict(self, parameters: Tensors, buffers: Tensors, inputs: Tensor) -> Tensor:
        """The outputs of the adapted network, in evaluation mode."""
        outputs: Tensor = functional_call(self.judged_network, (parameters, buffers), (inputs,))
        return outputs

    def score(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> Tensor:
        """The metric on `(inputs, targets)`, 0-dim."""
        inputs, targets = batch
        return self.score_of(self.predict(parameters, buffers, inputs), targets)

    def with_settings(self, **settings: object) -> Self:
        """The same task but for some settings: more queries for testing, say."""
        return replace(self, **settings)  # type: ignore[arg-type]
