"""Feeds chosen gradients to a rule, many experiments at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learned_opt.functional import compute_updates
from learned_opt.rules.base import Context, State, UpdateRule
from learned_opt.rules.coordinate_rule import CoordinateRule

MATRIX = (8, 8)
"""Shape of the tensor in which a rule of whole tensors is probed at one coordinate."""

SPREAD = 0.1
"""Standard deviation of the initial weights of that tensor."""


@dataclass(frozen=True)
class Population:
    """Parameters and states of `n` experiments that know nothing of each other.

    Attributes:
        parameters: `[n, *shape]`.
        states: state tensors by name, `[n, *state]`. `step` of a `CoordinateRule` is 0-dim.
    """

    parameters: Tensor
    states: State

    def repeat(self, count: int) -> Population:
        """Every experiment `count` times over, copies of the first `n` first."""
        states = {
            key: torch.cat([value] * count) if value.dim() else value
            for key, value in self.states.items()
        }
        return Population(torch.cat([self.parameters] * count), states)


class Probe:
    """A rule at one probed coordinate of many copies of a tensor.

    The coordinates of a `CoordinateRule` are independent: each is an experiment. A rule of whole
    tensors is probed at the first coordinate of a matrix, of which the other coordinates keep the
    gradients that they have.

    Args:
        rule: the update rule.
        total_steps: the planned number of steps, told to rules that read it; None tells only those
            that need one that it is 300.
        loss: the loss, constant, told to rules that read it.
        seed: random seed of initial weights.
    """

    def __init__(
        self, rule: UpdateRule, *, total_steps: int | None = None, loss: float = 1.0, seed: int = 0
    ) -> None:
        self.rule = rule
        self.seed = seed
        self.alone = isinstance(rule, CoordinateRule)
        self.shape: tuple[int, ...] = () if self.alone else MATRIX
        self.context = make_context(rule, total_steps, loss)

    def noise(self, steps: int, count: int, size: float, seed: int) -> Tensor:
        """Independent normal gradients of this standard deviation, `[steps, count, *shape]`."""
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(steps, count, *self.shape, generator=generator, dtype=torch.float64)
        return (size * values).to(self.rule.dtype)

    def place(self, gradients: Tensor, values: Tensor) -> Tensor:
        """Gradients whose probed coordinates are `values`, `[steps, count]`."""
        if self.alone:
            return values.to(gradients.dtype)
        placed = gradients.clone()
        placed[..., 0, 0] = values
        return placed

    def pick(self, updates: Tensor) -> Tensor:
        """The updates of the probed coordinates, `[steps, count]`, in float64."""
        return (updates if self.alone else updates[..., 0, 0]).double()

    def begin(self, count: int) -> Population:
        """Experiments that have taken no step. A single coordinate begins at 0."""
        generator = torch.Generator().manual_seed(self.seed)
        values = torch.randn(count, *self.shape, generator=generator, dtype=torch.float64)
        parameters = (0.0 if self.alone else SPREAD) * values.to(self.rule.dtype)
        if self.alone:
            return Population(parameters, self.rule.init_state(parameters))
        states = [self.rule.init_state(parameter) for parameter in parameters]
        joined = {key: torch.stack([state[key] for state in states]) for key in states[0]}
        return Population(parameters, joined)

    @torch.no_grad()
    def step(self, population: Population, gradient: Tensor) -> tuple[Tensor, Population]:
        """Take one step.

        Args:
            population: the experiments.
            gradient: `[n, *shape]`.

        Returns:
            What the rule adds to the parameters, with its default learning rate, `[n, *shape]`, and
            the experiments after the step.
        """
        if self.alone:
            delta, states = self._one(gradient, population.parameters, population.states)
        else:
            delta, states = torch.func.vmap(self._one)(
                gradient, population.parameters, population.states
            )
        update = self.rule.default_lr * delta
        return update, Population(population.parameters + update, states)

    def _one(self, gradient: Tensor, parameter: Tensor, state: State) -> tuple[Tensor, State]:
        deltas, states = compute_updates(self.rule, [gradient], [parameter], [state], self.context)
        return deltas[0], states[0]

    def run(
        self, gradients: Sequence[Tensor] | Tensor, start: Population | None = None
    ) -> tuple[Tensor, Population]:
        """Take a step for each gradient.

        Args:
            gradients: `[steps, n, *shape]`.
            start: experiments to continue; by default fresh ones.

        Returns:
            The updates, `[steps, n, *shape]`, and the experiments after the last step.
        """
        population = self.begin(len(gradients[0])) if start is None else start
        updates = []
        for gradient in gradients:
            update, population = self.step(population, gradient)
            updates.append(update)
        return torch.stack(updates), population


NEEDED_STEPS = 300
"""Planned number of steps of rules that need one, where none is given."""


def make_context(rule: UpdateRule, total_steps: int | None, loss: float | Tensor) -> Context:
    """A context with what the rule reads; a number of steps only if it is given or needed."""
    fields = rule.read_context()
    if total_steps is None and "total_steps" in rule.required_context():
        total_steps = NEEDED_STEPS
    told = "total_steps" in fields and total_steps is not None
    return Context(
        loss=torch.as_tensor(loss, dtype=rule.wide_dtype) if "loss" in fields else None,
        total_steps=torch.tensor(float(total_steps or 0), dtype=rule.wide_dtype) if told else None,
    )


def rms(values: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Root mean square, over all axes by default."""
    return values.double().square().mean(axis).sqrt()


def smoothed(sizes: Tensor) -> Tensor:
    """The mean of each step and of up to four on both sides, `[steps]`: single steps scatter."""
    ones = torch.ones(1, 1, 9, dtype=torch.float64)
    flat = sizes.double().reshape(1, 1, -1)
    total = torch.nn.functional.conv1d(flat, ones, padding=4)
    return (total / torch.nn.functional.conv1d(torch.ones_like(flat), ones, padding=4)).reshape(-1)
