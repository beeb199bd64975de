"""The base class of few-shot tasks: an episode is a problem with a support and a query set."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import vmap

from learned_opt.adaptation.module_copy import call_with_tensors
from learned_opt.registry import look_up
from meta_train.runtime.checks import check_at_least
from meta_train.runtime.seeding import seeded_cpu
from meta_train.tasks.base import Batch, BatchedLoss, Loss, Problem, Task, Tensors
from meta_train.tasks.episodes.conv_network import ConvNetworks, networks_of

ADAPTED = ("all", "head")
FRESH = ("nothing", "head", "all")
HEAD = "head."
"""Prefix of the head's parameters, in every network of this folder."""


@dataclass(frozen=True, kw_only=True)
class EpisodeTask(Task):
    """Episodes: inner training sees the support set, and the query set evaluates it.

    Drawing an episode is cheap, because each outer step draws dozens: no module is built, and
    parameters that are not drawn are shared.

    Examples:
        ::

            problem = Sine(shots=5).sample(torch.Generator().manual_seed(0), torch.device("cpu"))
            support = problem.full()  # inputs [5, 1] and targets [5, 1]
            query = problem.draw_validation(torch.Generator())

    Attributes:
        shots: support examples, per class in a classification task.
        queries: query examples, per class in a classification task.
        adapted: parameters that inner training changes: "all", or those of the "head" (ANIL: Raghu
            et al. 2019, arXiv 1909.09157); the others are then in `Problem.fixed`.
        fresh: parameters that are drawn for each episode: "nothing", the "head", or "all". A
            learned initialisation replaces them.
        inner_batch: support examples per inner step, drawn without replacement; None for all.
    """

    shots: int
    queries: int
    adapted: str = "all"
    fresh: str = "nothing"
    inner_batch: int | None = None

    metric: ClassVar[str]
    """Name of the metric that `score` returns: "accuracy" or "MSE"."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: names the setting and the value.
        """
        look_up("choice of adapted parameters", self.adapted, dict.fromkeys(ADAPTED))
        look_up("choice of fresh parameters", self.fresh, dict.fromkeys(FRESH))
        check_at_least(1, shots=self.shots, queries=self.queries)
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
        """Build the network. Its initial weights come from torch's global generator."""

    @abstractmethod
    def draw_parameters(self, generator: torch.Generator, *, head_only: bool) -> Tensors:
        """Draw initial parameters by name, on the CPU.

        Args:
            generator: the source of randomness.
            head_only: draw only the head's parameters.
        """

    @abstractmethod
    def draw_episode(
        self,
        generator: torch.Generator,
        device: torch.device,
        identity: torch.Generator | None = None,
    ) -> tuple[Batch, Batch]:
        """Draw the support set and the query set, each (inputs, targets).

        Args:
            generator: the source of randomness.
            device: the device of the tensors.
            identity: draws the classes or the curve instead of `generator`. Equal ones give the
                same few-shot task with other examples.
        """

    @abstractmethod
    def loss_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of the network's outputs, a 0-dim tensor."""

    @abstractmethod
    def score_of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The metric of the network's outputs, a 0-dim tensor."""

    @cached_property
    def network(self) -> nn.Module:
        """The module, in training mode; copies of it run with given parameters."""
        with seeded_cpu(0):
            return self.build()

    @cached_property
    def eval_network(self) -> nn.Module:
        """The same module in evaluation mode."""
        return copy.deepcopy(self.network).eval()

    @cached_property
    def _shared(self) -> dict[torch.device, tuple[Tensors, Tensors]]:
        return {}

    def template(self, device: torch.device | None = None, seed: int = 0) -> Tensors:
        """Initial values for a learned initialisation, by name.

        With seed 0 they are also the initial parameters of problems, except those that `fresh`
        draws for each episode.

        Args:
            device: the device of the tensors; None for the CPU.
            seed: random seed of the values.
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
        """Draw an episode, then the fresh parameters."""
        # In this order the episode does not depend on `fresh`.
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
            loss=self.problem_loss,
            draw=self.drawer(support),
            full=lambda: support,
            draw_validation=lambda _: query,
            fixed=fixed,
        )

    def drawer(self, support: Batch) -> Callable[[torch.Generator], Batch]:
        """A function that draws the batches of inner training from a support set."""
        size = self.inner_batch
        if size is None:
            return lambda _: support
        inputs, targets = support

        def draw(batches: torch.Generator) -> Batch:
            rows = torch.randperm(len(targets), generator=batches)[:size].to(targets.device)
            return inputs[rows], targets[rows]

        return draw

    def loss(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """The loss on a batch `(inputs, targets)`, and the new buffers."""
        inputs, targets = batch
        outputs, after = call_with_tensors(
            self.network, {**parameters, **buffers}, lambda network: network(inputs.clone())
        )
        return self.loss_of(outputs, targets), {key: after[key] for key in buffers}

    @cached_property
    def problem_loss(self) -> Loss:
        """`loss`, with a faster way for many runs and for one, if the network has one."""
        if self._networks is None:
            return self.loss
        return BatchedLoss(self._loss_of_one, self.losses, self._suits)

    @cached_property
    def _networks(self) -> ConvNetworks | None:
        return networks_of(self.network)

    def losses(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> tuple[Tensor, Tensors]:
        """`loss` of many runs: every tensor has a leading axis of runs. Losses are `[runs]`."""
        inputs, targets = batch
        outputs = self._outputs(parameters, buffers, inputs)
        if outputs is None:
            result: tuple[Tensor, Tensors] = vmap(self.loss)(parameters, buffers, batch)
            return result
        losses: Tensor = vmap(self.loss_of)(outputs, targets)
        return losses, buffers

    def _loss_of_one(
        self, parameters: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        inputs, targets = batch
        one = {key: value.unsqueeze(0) for key, value in parameters.items()}
        outputs = self._outputs(one, buffers, inputs.unsqueeze(0))
        if outputs is None:
            return self.loss(parameters, buffers, batch)
        return self.loss_of(outputs[0], targets), buffers

    def scores(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> Tensor:
        """`score` of many runs: every tensor has a leading axis of runs. Scores are `[runs]`."""
        inputs, targets = batch
        outputs = self._outputs(parameters, buffers, inputs)
        scores: Tensor
        if outputs is None:
            scores = vmap(self.score, randomness="different")(parameters, buffers, batch)
        else:
            scores = vmap(self.score_of)(outputs, targets)
        return scores

    def _outputs(self, parameters: Tensors, buffers: Tensors, inputs: Tensor) -> Tensor | None:
        """Outputs of the networks of many runs; None if only `vmap` knows how."""
        networks = self._networks
        if networks is None or not self._suits(parameters, buffers, (inputs,)):
            return None
        return networks(parameters, inputs)

    def _suits(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> bool:
        """Whether the networks of many runs are computed at once, without `vmap`."""
        networks = self._networks
        return networks is not None and not buffers and networks.fits(parameters, batch[0])

    def predict(self, parameters: Tensors, buffers: Tensors, inputs: Tensor) -> Tensor:
        """The outputs of the network with these parameters, in evaluation mode."""
        outputs: Tensor
        outputs, _ = call_with_tensors(
            self.eval_network, {**parameters, **buffers}, lambda network: network(inputs.clone())
        )
        return outputs

    def score(self, parameters: Tensors, buffers: Tensors, batch: Batch) -> Tensor:
        """The metric on a batch `(inputs, targets)`, a 0-dim tensor."""
        inputs, targets = batch
        return self.score_of(self.predict(parameters, buffers, inputs), targets)

    def with_settings(self, **settings: object) -> Self:
        """A copy of the task with other settings, such as more queries for testing."""
        return replace(self, **settings)  # type: ignore[arg-type]
