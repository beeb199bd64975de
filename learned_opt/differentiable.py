"""The bridge to `higher`: after this import, `higher.innerloop_ctx` takes a `LearnedOptimizer`.

    import learned_opt.differentiable

    optimizer = LearnedOptimizer(model.parameters(), rule=rule)
    with higher.innerloop_ctx(model, optimizer) as (fmodel, diffopt):
        diffopt.step(loss(fmodel(x), y))   # ... and gradients of later losses reach rule's weights

(`higher`: Grefenstette et al. 2019, arXiv 1910.01727.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import higher
from higher.optim import DifferentiableOptimizer
from torch import Tensor

from learned_opt.functional import apply_rule
from learned_opt.optimizer import LearnedOptimizer
from learned_opt.rules.base import Context, State


class DifferentiableLearnedOptimizer(DifferentiableOptimizer):  # type: ignore[misc]
    """A learned optimizer that `higher` can unroll.

    Made by `higher`, from a `LearnedOptimizer`. It shares the rule, so a backward pass through the
    inner loop fills the gradients of the rule's weights. Where the optimizer already holds state,
    the inner loop starts from a detached copy of it.

    Args:
        other: the optimizer to imitate.
        *args: as `higher.optim.DifferentiableOptimizer` takes them.
        second_order: let the outer gradient flow through the inner gradients that the rule reads.
            False (the default) is the usual choice for learned optimizers (Andrychowicz et al.
            2016, section 2.1) and the only one that leaves the optimizee differentiated once. Set
            the attribute `second_order` on the object that `innerloop_ctx` gives to change it.
        **kwargs: likewise.
    """

    def __init__(
        self, other: LearnedOptimizer, *args: Any, second_order: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(other, *args, **kwargs)
        # Not in the groups: higher deep-copies those, and a copied rule gets no gradient.
        self.rule = other.rule
        self.second_order = second_order
        self._loss: Tensor | None = None

    def step(
        self, loss: Tensor, params: Iterable[Tensor] | None = None, **kwargs: Any
    ) -> Iterable[Tensor]:
        """As in `higher`; the loss is kept for rules that read it."""
        self._loss = loss.detach()
        new_params: Iterable[Tensor] = super().step(loss, params=params, **kwargs)
        return new_params

    def _update(self, grouped_grads: list[list[Tensor | None]], **kwargs: Any) -> None:
        for index, (group, grads) in enumerate(zip(self.param_groups, grouped_grads, strict=True)):
            present = {k: grad for k, grad in enumerate(grads) if grad is not None}
            if not present:
                continue
            chosen = list(present)
            parameters = [group["params"][k] for k in chosen]
            gradients = list(present.values())
            if not self.second_order:
                gradients = [gradient.detach() for gradient in gradients]
            states = [self._state_of(index, k, group["params"][k]) for k in chosen]
            total_steps = group["total_steps"]
            context = Context(
                loss=self._loss,
                total_steps=None if total_steps is None else parameters[0].new_tensor(total_steps),
            )
            moved, new_states = apply_rule(
                self.rule,
                gradients,
                parameters,
                states,
                context,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                maximize=group["maximize"],
            )
            for k, parameter, state in zip(chosen, moved, new_states, strict=True):
                group["params"][k] = parameter
                if not self._track_higher_grads:
                    state = {key: value.detach() for key, value in state.items()}
                self.state[index][k] = state

    def _state_of(self, group: int, position: int, parameter: Tensor) -> State:
        state: State = self.state[group][position]
        return state if "step" in state else self.rule.init_state(parameter)


higher.register_optim(LearnedOptimizer, DifferentiableLearnedOptimizer)
