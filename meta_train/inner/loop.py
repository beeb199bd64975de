"""Inner training as a pure, differentiable function: one step, alone or for many runs at once.

    (parameters, buffers, optimizer state, batch) -> (parameters, buffers, optimizer state, loss)

built on `torch.func.functional_call` and plain `autograd.grad`. With `vectorize` every tensor has a
leading axis of runs, and loss and rule go through `torch.func.vmap` (the loss where it can); the
mathematics is the same code either way.

First derivatives only (the default) is what most learned optimizers are meta-trained with: the
gradients that the rule reads are constants (Andrychowicz et al. 2016, section 2.1). Then the
derivative of the inner loss by the inner parameters is that very gradient, which is at hand, so the
optimizee is differentiated once, its graph is freed at once, and only the rule's own graph is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from learned_opt.functional import apply_update, compute_updates
from learned_opt.rules.base import Context, CoordinateRule, State, UpdateRule
from meta_train.inner.imitation import Teacher
from meta_train.inner.masking import LossWithGradient, largest, lead, where_alive
from meta_train.inner.state import InnerState, map_states
from meta_train.inner.vmap_fallback import losses_of_runs
from meta_train.tasks.base import Batch, Loss, Tensors


@dataclass(frozen=True)
class InnerLoop:
    """Everything that stays the same from one inner step to the next.

    Attributes:
        rule: the update rule; gradients reach its weights.
        loss: the problems' loss.
        vectorize: the state has a leading axis of runs.
        lr: factor on the update; by default the rule's own. `[runs]` where each run has its own.
        weight_decay: decoupled.
        total_steps: the planned number of steps, for rules that read it; `[runs]` where each run
            has its own.
        second_order: let the outer gradient flow through the inner gradients too.
        differentiable: build the graph for an outer gradient at all.
        divergence: a run is dead once its loss is not finite or more than this times its first.
        weights: a population of rules, one for each run: weights by name, `[runs, *weight]`.
        hide_loss: do not tell the rule the loss.
        teacher: is asked for its own update at every step (`imitate` then gives the distance).
        traceable: take no branch that depends on numbers, so that a trace of one step (that of
            `torch.compile`, say) holds for every other. The numbers are the same either way.
    """

    rule: UpdateRule
    loss: Loss
    vectorize: bool
    lr: float | Tensor | None = None
    weight_decay: float = 0.0
    total_steps: int | Tensor | None = None
    second_order: bool = False
    differentiable: bool = True
    divergence: float = 1e3
    weights: Mapping[str, Tensor] | None = None
    hide_loss: bool = False
    teacher: Teacher | None = None
    traceable: bool = False

    def without_loss(self) -> InnerLoop:
        """The same loop, in which the rule is not told the loss (if it can do without)."""
        return replace(self, hide_loss="loss" not in self.rule.required_context())

    def step(self, inner: InnerState, batch: Batch) -> tuple[InnerState, Tensor]:
        """Take one inner step.

        Args:
            inner: where training stands.
            batch: one batch, or one per run along a leading axis.

        Returns:
            The state after the step, and the loss before it (0-dim or `[runs]`). The loss of a
            run that has diverged is not a number of interest: mask it with `alive`.
        """
        after, losses, _ = self.imitate(inner, batch)
        return after, losses

    def imitate(self, inner: InnerState, batch: Batch) -> tuple[InnerState, Tensor, Tensor]:
        """Take one inner step, and compare it with the teacher's.

        Returns:
            As `step`, and how far the update was from the teacher's (0-dim or `[runs]`; zero where
            there is no teacher, and for runs that have diverged).
        """
        losses, after, gradients, mask = self._look(inner, batch, twice=self.second_order)
        with torch.set_grad_enabled(self.differentiable):
            seen = where_alive(mask, losses.detach(), 0.0)
            masked = inner
            if mask is not None:
                masked = map_states(lambda value: where_alive(mask, value, 0), inner)
            parameters, states = self._apply(masked, gradients, seen)
            distance = torch.zeros_like(seen)
            teacher = inner.teacher
            if self.teacher is not None:
                distance, teacher = self.teacher.compare(
                    masked, gradients, seen, parameters, vectorize=self.vectorize
                )
                distance = where_alive(mask, distance, 0.0)
            moved = {
                key: where_alive(mask, value, inner.parameters[key])
                for key, value in parameters.items()
            }
        after = replace(after, parameters=moved, states=states, teacher=teacher)
        return after, losses, distance

    def look(self, inner: InnerState, batch: Batch) -> tuple[InnerState, Tensor]:
        """Compute the loss as `step` does, differentiably (once), but take no step."""
        # No rule reads these gradients: of second derivatives they have no need.
        losses, after, _, _ = self._look(inner, batch, twice=False)
        return after, losses

    def _look(
        self, inner: InnerState, batch: Batch, *, twice: bool
    ) -> tuple[Tensor, InnerState, Tensors, Tensor | None]:
        """Losses, the state with what was learned of it, gradients, and the mask still needed.

        Args:
            inner: where training stands.
            batch: see `step`.
            twice: build a graph of the gradients too (if there is any graph at all).
        """
        losses, buffers, found, seen = self._loss_and_gradients(inner, batch, twice=twice)
        first = torch.where(inner.first_loss.isnan(), losses.detach(), inner.first_loss)
        alive = inner.alive & self._sound(losses.detach(), first, found)
        mask = None if self._needs_no_mask(alive) else alive
        # A dead run stands still: the rule gets zeros for it, and its old values come out, so that
        # no NaN reaches the rule's weights through a product with zero.
        found = {key: where_alive(mask, value, 0.0) for key, value in found.items()}
        if self.differentiable and self.second_order:
            for value in seen.values():  # nor through the graph of its loss
                if mask is not None and value.grad_fn is not None:
                    value.register_hook(lambda grad: where_alive(mask, grad, 0.0))
        elif self.differentiable:
            read = {**inner.fixed, **inner.parameters}
            losses = LossWithGradient.apply(  # type: ignore[no-untyped-call]
                losses, *(read[key] for key in found), *found.values()
            )
        gradients = {key: found[key] for key in inner.parameters}
        after = replace(inner, buffers=buffers, alive=alive, first_loss=first)
        return losses, after, gradients, mask

    def _needs_no_mask(self, alive: Tensor) -> bool:
        """Whether all runs are known to be alive: masks cost a copy of all state at every step.

        Looking is free on the CPU only; elsewhere it would wait for the device.
        """
        return not self.traceable and alive.device.type == "cpu" and bool(alive.all())

    def gradients(self, inner: InnerState, batch: Batch) -> tuple[Tensor, Tensors]:
        """Losses and gradients at `inner` on a batch, both without history."""
        losses, _, gradients, _ = self._loss_and_gradients(inner.detach(), batch, twice=False)
        return losses.detach(), {key: gradients[key].detach() for key in inner.parameters}

    def evaluate(self, inner: InnerState, batch: Batch) -> Tensor:
        """The loss at `inner` on a batch, 0-dim or `[runs]`, without history."""
        with torch.no_grad():
            losses, _ = self._losses({**inner.fixed, **inner.parameters}, inner.buffers, batch)
        return losses

    def _losses(
        self, parameters: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        if self.vectorize:
            return losses_of_runs(self.loss, parameters, buffers, batch)
        return self.loss(parameters, buffers, batch)

    def _loss_and_gradients(
        self, inner: InnerState, batch: Batch, *, twice: bool
    ) -> tuple[Tensor, Tensors, Tensors, Tensors]:
        keep = self.second_order and self.differentiable
        parameters = {
            key: value.view_as(value)
            if keep and value.requires_grad
            else value.detach().requires_grad_()
            for key, value in inner.parameters.items()
        }
        # Of what stays as it is the rule reads no gradient: the judge does, where there is one.
        fixed, judged = {}, {}
        for key, value in inner.fixed.items():
            if keep and value.requires_grad:
                fixed[key] = value.view_as(value)
            elif self.differentiable and value.requires_grad:
                fixed[key] = judged[key] = value.detach().requires_grad_()
            else:
                fixed[key] = value.detach()
        asked = {**parameters, **judged}
        with torch.enable_grad():
            losses, buffers = self._losses({**fixed, **parameters}, inner.buffers, batch)
            gradients = torch.autograd.grad(
                losses.sum(),
                list(asked.values()),
                retain_graph=keep,
                create_graph=keep and twice,
                allow_unused=True,
                materialize_grads=True,
            )
        named = dict(zip(asked, gradients, strict=True))
        buffers = {key: value.detach() for key, value in buffers.items()}
        if keep:
            return losses, buffers, named, {**fixed, **parameters}
        return losses.detach(), buffers, named, {**fixed, **parameters}

    def _sound(self, losses: Tensor, first: Tensor, gradients: Tensors) -> Tensor:
        sound = losses.isfinite() & (losses <= self.divergence * first.abs().clamp_min(1e-8))
        axis = 1 if self.vectorize else 0
        # The largest of a tensor, in two passes that run at the speed of memory: testing every
        # number takes twenty times as long, more than the rest of a step of SGD.
        # Squared: rules take mean squares, and an overflow inside a rule cannot be masked.
        squares = [
            largest(gradient.detach(), axis).square()
            for gradient in gradients.values()
            if gradient.numel()
        ]
        return sound & torch.stack(squares).isfinite().all(0) if squares else sound

    def _apply(
        self, inner: InnerState, gradients: Tensors, losses: Tensor
    ) -> tuple[Tensors, dict[str, State]]:
        names = list(inner.parameters)
        lr = self.rule.default_lr if self.lr is None else self.lr
        total = self.total_steps
        if isinstance(total, int):
            total = torch.full((), float(total), device=losses.device)

        def one_step(
            gradients: list[Tensor],
            parameters: list[Tensor],
            states: list[State],
            loss: Tensor | None,
            lr: float | Tensor,
            total: Tensor | None,
            weights: Mapping[str, Tensor] | None,
        ) -> tuple[list[Tensor], list[State]]:
            context = Context(loss=loss, total_steps=total)
            rule = self._rule_with(weights)
            deltas, new_states = compute_updates(rule, gradients, parameters, states, context)
            moved = [
                apply_update(
                    parameter,
                    delta,
                    lead(lr, parameter) if isinstance(lr, Tensor) else lr,
                    self.weight_decay,
                )
                for parameter, delta in zip(parameters, deltas, strict=True)
            ]
            return moved, new_states

        loss = None if self.hide_loss else losses
        # Rules that treat coordinates alone need no vmap: runs are more coordinates to them.
        alone = isinstance(self.rule, CoordinateRule) and self.weights is None
        if self.vectorize and not alone:
            own_lr = 0 if isinstance(lr, Tensor) and lr.dim() else None
            own_total = 0 if total is not None and total.dim() else None
            own_weights = None if self.weights is None else 0
            own_loss = None if loss is None else 0
            one_step = vmap(one_step, (0, 0, 0, own_loss, own_lr, own_total, own_weights))
        parameters, states = one_step(
            [gradients[name] for name in names],
            [inner.parameters[name] for name in names],
            [inner.states[name] for name in names],
            loss,
            lr,
            total,
            self.weights,
        )
        return dict(zip(names, parameters, strict=True)), dict(zip(names, states, strict=True))

    def _rule_with(self, weights: Mapping[str, Tensor] | None) -> Callable[..., Any]:
        """The rule, or the same rule around other weights."""
        if weights is None:
            return self.rule
        return lambda *arguments: functional_call(self.rule, dict(weights), arguments)
