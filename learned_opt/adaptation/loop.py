"""The loop of an adaptation: over a module's own parameters, or over tensors that it is lent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from learned_opt.adaptation.module_copy import let_go_of_graphs
from learned_opt.adaptation.support_set import arguments_of
from learned_opt.functional import apply_rule, half_square_distance
from learned_opt.rules.base import Context, State, UpdateRule


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """A few steps of a rule on batches: what is the same for all of them.

    Attributes:
        rule: takes the steps, on the device of what is adapted.
        lr: factor on the update.
        steps: how many.
        loss: `(module output, targets) -> 0-dim`.
        proximal: half of this times the squared distance from the start is added to the loss.
        create_graph: keep the graph of all steps.
    """

    rule: UpdateRule
    lr: float | Tensor
    steps: int
    loss: Callable[[Any, Any], Tensor]
    proximal: float
    create_graph: bool

    def of_module(
        self, module: nn.Module, chosen: dict[str, Tensor], batches: Iterator[tuple[Any, Any]]
    ) -> None:
        """Train the chosen parameters of a module in place."""
        ours = {id(value) for value in chosen.values()}
        rest = [p for p in module.parameters() if p.requires_grad and id(p) not in ours]
        for own in module.parameters():
            own.grad = None
        for own in rest:  # for a while: what they lead to need not be differentiated
            own.requires_grad_(False)
        anchors = {key: value.detach().clone() for key, value in chosen.items()}
        states = self._states(chosen)
        for step in range(self.steps):
            with torch.enable_grad():
                value, gradients = self.look(module, next(batches), chosen, anchors)
            if not bool(torch.isfinite(value)):
                hint = "a lower lr may help" if step else "look at the support set and the module"
                raise RuntimeError(
                    f"the loss is {float(value.detach())} at step {step + 1} of adaptation: {hint}"
                )
            with torch.no_grad():
                for key, moved in self._move(chosen, gradients, states, value).items():
                    chosen[key].copy_(moved)
            torch.clear_autocast_cache()  # of what they were
        for key, parameter in chosen.items():
            if not bool(torch.isfinite(parameter).all()):
                raise RuntimeError(
                    f"parameter {key!r} is not finite after {self.steps} steps of adaptation: a "
                    "lower lr may help, if its gradient is finite"
                )
        for parameter in rest:
            parameter.requires_grad_(True)
        let_go_of_graphs(module)

    def of_tensors(
        self, module: nn.Module, chosen: dict[str, Tensor], batches: Iterator[tuple[Any, Any]]
    ) -> dict[str, Tensor]:
        """Parameters and buffers by name after the steps; the module's own stay as they are."""
        rest: dict[str, Tensor] = {k: v for k, v in module.named_parameters() if k not in chosen}
        buffers = {key: value.clone() for key, value in module.named_buffers()}
        if not self.create_graph:
            chosen = {key: value.detach().clone() for key, value in chosen.items()}
            rest = {key: value.detach() for key, value in rest.items()}
        anchors = chosen
        states = self._states(chosen)
        look = _Look(module, self)
        for _ in range(self.steps):
            with torch.enable_grad():
                if not self.create_graph:
                    chosen = {k: v.detach().requires_grad_() for k, v in chosen.items()}
                # Buffers that the module assigns anew are put into what it was given.
                tensors = {f"module.{k}": v for k, v in {**rest, **chosen, **buffers}.items()}
                given = (next(batches), chosen, anchors)
                value, gradients = functional_call(look, tensors, given)
                buffers = {key: self._kept(tensors[f"module.{key}"]) for key in buffers}
            with torch.set_grad_enabled(self.create_graph):
                chosen = {**chosen, **self._move(chosen, gradients, states, value)}
        return {**rest, **chosen, **buffers}

    def look(
        self,
        module: nn.Module,
        batch: tuple[Any, Any],
        chosen: Mapping[str, Tensor],
        anchors: Mapping[str, Tensor],
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """The loss at a batch, and its gradients by the chosen tensors; None is without."""
        positional, named = arguments_of(batch[0])
        value = _checked_loss(self.loss(module(*positional, **named), batch[1]))
        needed = value.requires_grad
        if self.proximal:
            value = value + self.proximal * half_square_distance(chosen, anchors)
        gradients: Sequence[Tensor | None] = ()
        if needed:
            gradients = torch.autograd.grad(
                value, list(chosen.values()), create_graph=self.create_graph, allow_unused=True
            )
        if all(gradient is None for gradient in gradients):
            raise ValueError(
                "the loss does not depend on any parameter that is to be adapted, or it is "
                "computed within a transform of torch.func, of which adapt knows nothing"
            )
        return value, gradients

    def _kept(self, buffer: Tensor) -> Tensor:
        return buffer if self.create_graph else buffer.detach()

    def _states(self, chosen: Mapping[str, Tensor]) -> dict[str, State]:
        return {key: self.rule.init_state(value.detach()) for key, value in chosen.items()}

    def _move(
        self,
        chosen: Mapping[str, Tensor],
        gradients: Sequence[Tensor | None],
        states: dict[str, State],
        value: Tensor,
    ) -> dict[str, Tensor]:
        """New values of those that have a gradient; their states are replaced."""
        present = {}
        for (key, tensor), gradient in zip(chosen.items(), gradients, strict=True):
            if gradient is None and states[key].keys() == {"step"}:
                # Without a state, the step of no gradient is none; rates are of all tensors.
                gradient = torch.zeros_like(tensor)
            if gradient is not None:
                if gradient.is_sparse:
                    raise ValueError(f"the gradient of parameter {key!r} is sparse: adapt takes no")
                present[key] = gradient
        moved, after = apply_rule(
            self.rule,
            list(present.values()),
            [chosen[key] for key in present],
            [states[key] for key in present],
            Context(
                loss=value.detach(),
                total_steps=torch.full((), float(self.steps), device=self.rule.device),
            ),
            lr=self.lr,
        )
        states.update(zip(present, after, strict=True))
        return dict(zip(present, moved, strict=True))


class _Look(nn.Module):
    """`Adaptation.look` as a module, so that `functional_call` lends it tensors.

    The gradient is taken while they are lent: activation checkpointing reads them again.
    """

    def __init__(self, module: nn.Module, training: Adaptation) -> None:
        super().__init__()
        self.module = module
        self.look = training.look

    def forward(self, *given: Any) -> tuple[Tensor, Sequence[Tensor | None]]:
        return self.look(self.module, *given)


def _checked_loss(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.dim():
        got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss must return a 0-dim tensor, got {got}")
    return value
