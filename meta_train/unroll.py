"""Inner training as a pure, differentiable function: one step, alone or for many runs at once.

    (parameters, buffers, optimizer state, batch) -> (parameters, buffers, optimizer state, loss)

built on `torch.func.functional_call` and plain `autograd.grad`. With `vectorize` every tensor has a
leading axis of runs, and loss and rule go through `torch.func.vmap`; the mathematics is the same
code either way.

First derivatives only (the default) is what most learned optimizers are meta-trained with: the
gradients that the rule reads are constants (Andrychowicz et al. 2016, section 2.1). Then the
derivative of the inner loss by the inner parameters is that very gradient, which is at hand, so the
optimizee is differentiated once, its graph is freed at once, and only the rule's own graph is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils import _pytree as pytree

from learned_opt.functional import move, propose
from learned_opt.rules.base import Context, CoordinateRule, State, UpdateRule
from meta_train.tasks.base import Batch, Loss, Problem, Tensors


@dataclass(frozen=True)
class InnerState:
    """Where inner training stands; with a leading axis of runs where vectorised.

    Attributes:
        parameters: by name.
        buffers: by name.
        states: the rule's state of each parameter, by name.
        alive: 0-dim or `[runs]`, bool: False from the step on at which a run diverged.
        first_loss: the loss at the first step, NaN before it.
    """

    parameters: Tensors
    buffers: Tensors
    states: dict[str, State]
    alive: Tensor
    first_loss: Tensor

    def detach(self) -> InnerState:
        """The same numbers without history: where a truncation window ends."""
        return _map(lambda tensor: tensor.detach(), self)


def start(rule: UpdateRule, problems: Sequence[Problem], *, vectorize: bool) -> InnerState:
    """Stand at the first step of one problem, or of several at once.

    Raises:
        ValueError: several problems without `vectorize`, or ones that cannot run together.
    """
    if not vectorize:
        if len(problems) != 1:
            raise ValueError(f"{len(problems)} problems at once need vectorize=True")
        return _start_one(rule, problems[0])
    if any(problem.loss != problems[0].loss for problem in problems):
        raise ValueError("problems of different tasks cannot run at once: their losses differ")
    return stack_states([_start_one(rule, problem) for problem in problems])


def _start_one(rule: UpdateRule, problem: Problem) -> InnerState:
    device = next(iter(problem.parameters.values())).device
    return InnerState(
        parameters=dict(problem.parameters),
        buffers=dict(problem.buffers),
        states={name: rule.init_state(value) for name, value in problem.parameters.items()},
        alive=torch.ones((), dtype=torch.bool, device=device),
        first_loss=torch.full((), torch.nan, device=device),
    )


def stack_states(states: Sequence[InnerState]) -> InnerState:
    """Stack the states of single runs along a new leading axis."""
    return _map(lambda *tensors: torch.stack(tensors), *states)


def stack(trees: Sequence[Batch]) -> Batch:
    """Stack batches of equal structure along a new leading axis."""
    return pytree.tree_map(lambda *tensors: torch.stack(tensors), *trees)


def _map(function: Any, *states: InnerState) -> InnerState:
    fields = [
        pytree.tree_map(function, *(getattr(state, name) for state in states))
        for name in InnerState.__dataclass_fields__
    ]
    return InnerState(*fields)


@dataclass(frozen=True)
class InnerLoop:
    """Everything that stays the same from one inner step to the next.

    Attributes:
        rule: the update rule; gradients reach its weights.
        loss: the problems' loss.
        vectorize: the state has a leading axis of runs.
        lr: factor on the update; by default the rule's own. `[runs]` where each run has its own.
        weight_decay: decoupled.
        total_steps: the planned number of steps, for rules that read it.
        second_order: let the outer gradient flow through the inner gradients too.
        differentiable: build the graph for an outer gradient at all.
        divergence: a run is dead once its loss is not finite or more than this times its first.
    """

    rule: UpdateRule
    loss: Loss
    vectorize: bool
    lr: float | Tensor | None = None
    weight_decay: float = 0.0
    total_steps: int | None = None
    second_order: bool = False
    differentiable: bool = True
    divergence: float = 1e3

    def step(self, inner: InnerState, batch: Batch) -> tuple[InnerState, Tensor]:
        """Take one inner step.

        Args:
            inner: where training stands.
            batch: one batch, or one per run along a leading axis.

        Returns:
            The state after the step, and the loss before it (0-dim or `[runs]`). The loss of a
            run that has diverged is not a number of interest: mask it with `alive`.
        """
        losses, after, gradients = self._look(inner, batch)
        with torch.set_grad_enabled(self.differentiable):
            seen = _where(after.alive, losses.detach(), 0.0)
            masked = _map(lambda value: _where(after.alive, value, 0), inner)
            parameters, states = self._apply(masked, gradients, seen)
            moved = {
                key: _where(after.alive, value, inner.parameters[key])
                for key, value in parameters.items()
            }
        return replace(after, parameters=moved, states=states), losses

    def look(self, inner: InnerState, batch: Batch) -> tuple[InnerState, Tensor]:
        """Compute the loss as `step` does, differentiably, but take no step."""
        losses, after, _ = self._look(inner, batch)
        return after, losses

    def _look(self, inner: InnerState, batch: Batch) -> tuple[Tensor, InnerState, Tensors]:
        losses, buffers, gradients, seen = self._loss_and_gradients(inner, batch)
        first = torch.where(inner.first_loss.isnan(), losses.detach(), inner.first_loss)
        alive = inner.alive & self._sound(losses.detach(), first, gradients)
        # A dead run stands still: the rule gets zeros for it, and its old values come out, so that
        # no NaN reaches the rule's weights through a product with zero.
        gradients = {key: _where(alive, value, 0.0) for key, value in gradients.items()}
        if self.differentiable and self.second_order:
            for value in seen.values():  # nor through the graph of its loss
                if value.grad_fn is not None:
                    value.register_hook(lambda grad, alive=alive: _where(alive, grad, 0.0))
        elif self.differentiable:
            losses = _LossWithGradient.apply(  # type: ignore[no-untyped-call]
                losses, *inner.parameters.values(), *gradients.values()
            )
        return losses, replace(inner, buffers=buffers, alive=alive, first_loss=first), gradients

    def gradients(self, inner: InnerState, batch: Batch) -> tuple[Tensor, Tensors]:
        """Losses and gradients at `inner` on a batch, both without history."""
        losses, _, gradients, _ = self._loss_and_gradients(inner.detach(), batch)
        return losses.detach(), {key: value.detach() for key, value in gradients.items()}

    def evaluate(self, inner: InnerState, batch: Batch) -> Tensor:
        """The loss at `inner` on a batch, 0-dim or `[runs]`, without history."""
        with torch.no_grad():
            losses, _ = self._losses(inner.parameters, inner.buffers, batch)
        return losses

    def _losses(
        self, parameters: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        if self.vectorize:
            losses, buffers = vmap(self.loss, randomness="different")(parameters, buffers, batch)
            return losses, buffers
        return self.loss(parameters, buffers, batch)

    def _loss_and_gradients(
        self, inner: InnerState, batch: Batch
    ) -> tuple[Tensor, Tensors, Tensors, Tensors]:
        keep = self.second_order and self.differentiable
        parameters = {
            key: value.view_as(value)
            if keep and value.requires_grad
            else value.detach().requires_grad_()
            for key, value in inner.parameters.items()
        }
        with torch.enable_grad():
            losses, buffers = self._losses(parameters, inner.buffers, batch)
            gradients = torch.autograd.grad(
                losses.sum(),
                list(parameters.values()),
                create_graph=keep,
                allow_unused=True,
                materialize_grads=True,
            )
        named = dict(zip(parameters, gradients, strict=True))
        buffers = {key: value.detach() for key, value in buffers.items()}
        if keep:
            return losses, buffers, named, parameters
        return losses.detach(), buffers, named, parameters

    def _sound(self, losses: Tensor, first: Tensor, gradients: Tensors) -> Tensor:
        sound = losses.isfinite() & (losses <= self.divergence * first.abs().clamp_min(1e-8))
        for gradient in gradients.values():
            # Squared: rules take mean squares, and an overflow inside a rule cannot be masked.
            finite = gradient.detach().square().isfinite()
            sound = sound & (finite.flatten(1).all(1) if self.vectorize else finite.all())
        return sound

    def _apply(
        self, inner: InnerState, gradients: Tensors, losses: Tensor
    ) -> tuple[Tensors, dict[str, State]]:
        names = list(inner.parameters)
        lr = self.rule.default_lr if self.lr is None else self.lr
        total = None
        if self.total_steps is not None:
            total = torch.full((), float(self.total_steps), device=losses.device)
        own_lr = isinstance(lr, Tensor) and lr.dim() > 0

        def one_step(
            gradients: list[Tensor],
            parameters: list[Tensor],
            states: list[State],
            loss: Tensor,
            lr: float | Tensor,
        ) -> tuple[list[Tensor], list[State]]:
            context = Context(loss=loss, total_steps=total)
            deltas, new_states = propose(self.rule, gradients, parameters, states, context)
            moved = [
                move(
                    parameter,
                    delta,
                    _lead(lr, parameter) if isinstance(lr, Tensor) else lr,
                    self.weight_decay,
                )
                for parameter, delta in zip(parameters, deltas, strict=True)
            ]
            return moved, new_states

        # Rules that treat coordinates alone need no vmap: runs are more coordinates to them.
        alone = isinstance(self.rule, CoordinateRule)
        if self.vectorize and not alone:
            one_step = vmap(one_step, in_dims=(0, 0, 0, 0, 0 if own_lr else None))
        parameters, states = one_step(
            [gradients[name] for name in names],
            [inner.parameters[name] for name in names],
            [inner.states[name] for name in names],
            losses,
            lr,
        )
        return dict(zip(names, parameters, strict=True)), dict(zip(names, states, strict=True))


class _LossWithGradient(torch.autograd.Function):
    """Losses whose derivatives by the parameters are known: the gradients computed anyway."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, *parameters_and_gradients: Tensor) -> Tensor:
        count = len(parameters_and_gradients) // 2
        ctx.save_for_backward(*parameters_and_gradients[count:])
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        gradients = ctx.saved_tensors
        scaled = [_lead(grad, gradient) * gradient for gradient in gradients]
        return None, *scaled, *([None] * len(gradients))


def _lead(value: Tensor, tensor: Tensor) -> Tensor:
    """Append axes to a value per run, so that it broadcasts over `[*runs, *rest]`."""
    return value.reshape((*value.shape, *([1] * (tensor.dim() - value.dim()))))


def _where(alive: Tensor, value: Tensor, otherwise: Tensor | float) -> Tensor:
    return torch.where(_lead(alive, value), value, otherwise)
