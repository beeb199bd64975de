"""The adaptation loop: on a module's own parameters in place, or on separate tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from learned_opt.adaptation.module_copy import call_with_tensors, detach_graph_tensors
from learned_opt.adaptation.second_derivatives import twice_differentiable
from learned_opt.adaptation.support_set import module_arguments
from learned_opt.checks.rule_results import WrongResult
from learned_opt.functional import apply_rule, half_square_distance
from learned_opt.rules.base import Context, State, UpdateRule


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """A few steps of a rule on batches.

    Attributes:
        rule: the update rule, on the device of the parameters.
        lr: multiplies the update.
        steps: number of steps.
        loss: `(module output, targets) -> 0-dim`.
        proximal: lambda; the loss gets lambda / 2 times the squared distance from the start added.
        create_graph: keep the graph of all steps.
    """

    rule: UpdateRule
    lr: float | Tensor
    steps: int
    loss: Callable[[Any, Any], Tensor]
    proximal: float
    create_graph: bool

    def in_place(
        self, module: nn.Module, chosen: dict[str, Tensor], batches: Iterator[tuple[Any, Any]]
    ) -> None:
        """Adapt the chosen parameters of a module in place.

        Raises:
            RuntimeError: the loss or an adapted parameter is not finite.
        """
        ours = {id(value) for value in chosen.values()}
        rest = [p for p in module.parameters() if p.requires_grad and id(p) not in ours]
        for own in module.parameters():
            own.grad = None
        for own in rest:  # until the end, to save their part of the backward pass
            own.requires_grad_(False)
        anchors = {key: value.detach().clone() for key, value in chosen.items()}
        states = self._states(chosen)
        for step in range(self.steps):
            with torch.enable_grad():
                value, gradients = self.loss_and_gradients(module, next(batches), chosen, anchors)
            if not bool(torch.isfinite(value)):
                hint = "a lower lr may help" if step else "look at the support set and the module"
                raise RuntimeError(
                    f"the loss is {float(value.detach())} at step {step + 1} of adaptation: {hint}"
                )
            with torch.no_grad():
                for key, moved in self._step(chosen, gradients, states, value).items():
                    chosen[key].copy_(moved)
            torch.clear_autocast_cache()  # it holds casts of the old values
        for key, parameter in chosen.items():
            if not bool(torch.isfinite(parameter).all()):
                raise RuntimeError(
                    f"parameter {key!r} is not finite after {self.steps} steps of adaptation: a "
                    "lower lr may help, if its gradient is finite"
                )
        for parameter in rest:
            parameter.requires_grad_(True)
        detach_graph_tensors(module)

    def of_tensors(
        self, module: nn.Module, chosen: dict[str, Tensor], batches: Iterator[tuple[Any, Any]]
    ) -> dict[str, Tensor]:
        """Adapted parameters and buffers by name; the module's own are unchanged."""
        # Copies: what is returned is none of the module's own tensors, adapted or not.
        with torch.enable_grad():
            rest = {k: v.clone() for k, v in module.named_parameters() if k not in chosen}
            chosen = {key: value.clone() for key, value in chosen.items()}
        buffers = {key: value.clone() for key, value in module.named_buffers()}
        if not self.create_graph:
            chosen = {key: value.detach() for key, value in chosen.items()}
            rest = {key: value.detach() for key, value in rest.items()}
        anchors = chosen
        states = self._states(chosen)

        def differentiate(
            copied: nn.Module,
        ) -> tuple[nn.Module, tuple[Tensor, Sequence[Tensor | None]]]:
            return copied, self.loss_and_gradients(copied, batch, chosen, anchors)

        for _ in range(self.steps):
            batch = next(batches)
            with torch.enable_grad():
                if not self.create_graph:
                    chosen = {k: v.detach().requires_grad_() for k, v in chosen.items()}
                # The next copy is made of this one, whose attributes the forward pass may set.
                tensors = {**rest, **chosen, **buffers}
                with twice_differentiable() if self.create_graph else nullcontext():
                    (module, found), after = call_with_tensors(module, tensors, differentiate)
            value, gradients = found
            if not self.create_graph:
                after = {key: tensor.detach() for key, tensor in after.items()}
            rest, chosen, buffers = (
                {key: after[key] for key in part} for part in (rest, chosen, buffers)
            )
            with torch.set_grad_enabled(self.create_graph):
                chosen = {**chosen, **self._step(chosen, gradients, states, value)}
        return {**rest, **chosen, **buffers}

    def loss_and_gradients(
        self,
        module: nn.Module,
        batch: tuple[Any, Any],
        chosen: Mapping[str, Tensor],
        anchors: Mapping[str, Tensor],
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """The loss on a batch, and its gradients with respect to the chosen tensors (or None)."""
        positional, named = module_arguments(batch[0])
        value = _checked_loss(self.loss(module(*positional, **named), batch[1]))
        has_graph = value.requires_grad
        if self.proximal:
            value = value + self.proximal * half_square_distance(chosen, anchors)
        gradients: Sequence[Tensor | None] = ()
        if has_graph:
            gradients = torch.autograd.grad(
                value, list(chosen.values()), create_graph=self.create_graph, allow_unused=True
            )
        if all(gradient is None for gradient in gradients):
            raise ValueError(
                "the loss does not depend on any parameter to adapt, or adapt was called inside a "
                "transform of torch.func, which it does not support"
            )
        return value, gradients

    def _states(self, chosen: Mapping[str, Tensor]) -> dict[str, State]:
        return {key: self.rule.init_state(value.detach()) for key, value in chosen.items()}

    def _step(
        self,
        chosen: Mapping[str, Tensor],
        gradients: Sequence[Tensor | None],
        states: dict[str, State],
        value: Tensor,
    ) -> dict[str, Tensor]:
        """New values of the tensors that have a gradient; replaces their states in `states`."""
        present = {}
        for (key, tensor), gradient in zip(chosen.items(), gradients, strict=True):
            if gradient is None and states[key].keys() == {"step"}:
                # A rule without state does nothing at a gradient of 0. Learned learning rates need
                # the gradients of all tensors.
                gradient = torch.zeros_like(tensor)
            if gradient is not None:
                if gradient.is_sparse:
                    raise ValueError(f"parameter {key!r} has a sparse gradient: not supported")
                present[key] = gradient
        # float32 whatever the default: bfloat16 would round it.
        planned = torch.full((), float(self.steps), dtype=torch.float32, device=self.rule.device)
        try:
            moved, after = apply_rule(
                self.rule,
                list(present.values()),
                [chosen[key] for key in present],
                [states[key] for key in present],
                Context(loss=value.detach(), total_steps=planned),
                lr=self.lr,
            )
        except WrongResult as error:
            raise error.named(list(present)[error.position]) from error
        states.update(zip(present, after, strict=True))
        return dict(zip(present, moved, strict=True))


def _checked_loss(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.dim():
        got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss must return a 0-dim tensor, got {got}")
    return value
