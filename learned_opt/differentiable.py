"""The bridge to `higher`: after this import, `higher.innerloop_ctx` takes a `LearnedOptimizer`.

    import learned_opt.differentiable

    optimizer = LearnedOptimizer(model.parameters(), rule=rule)
    with higher.innerloop_ctx(model, optimizer) as (fmodel, diffopt):
        diffopt.step(loss(fmodel(x), y))   # ... and gradients of later losses reach rule's weights

(`higher`: Grefenstette et al. 2019, arXiv 1910.01727.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import higher
import torch
from higher.optim import DifferentiableOptimizer
from torch import Tensor

from learned_opt.functional import apply_update, compute_updates
from learned_opt.optimizer.learned_optimizer import LearnedOptimizer
from learned_opt.rules.base import Context, State

_Call: TypeAlias = tuple[torch.device, bool, int | None]
"""Device, `maximize` and `total_steps`."""

_Pending: TypeAlias = tuple[int, int, Tensor, Tensor, State]
"""Group, position in it, parameter, gradient, state."""


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

    Raises:
        ValueError: complex parameters; in `step`, a rule that is not on the parameters' device.
    """

    def __init__(
        self, other: LearnedOptimizer, *args: Any, second_order: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(other, *args, **kwargs)
        if any(p.is_complex() for group in other.param_groups for p in group["params"]):
            raise ValueError("the bridge to higher takes real parameters only, got complex ones")
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
        # One call over all groups, as in the optimizer: what a rule shares among tensors is the
        # same then.
        calls: dict[_Call, list[_Pending]] = {}
        for index, (group, grads) in enumerate(zip(self.param_groups, grouped_grads, strict=True)):
            for k, gradient in enumerate(grads):
                if gradient is None:
                    continue
                parameter = group["params"][k]
                gradient = gradient if self.second_order else gradient.detach()
                state = self._state_of(index, k, parameter)
                call = (parameter.device, group["maximize"], group["total_steps"])
                calls.setdefault(call, []).append((index, k, parameter, gradient, state))
        for call, pending in calls.items():
            self._apply(call, pending)

    def _apply(self, call: _Call, pending: Sequence[_Pending]) -> None:
        device, maximize, total_steps = call
        if device != self.rule.device:
            raise ValueError(
                f"the rule is on {self.rule.device} and parameters on {device}: move the rule "
                "(a copy would get no gradient)"
            )
        planned = None
        if total_steps is not None:
            planned = torch.full((), float(total_steps), device=device)
        deltas, new_states = compute_updates(
            self.rule,
            [gradient for *_, gradient, _ in pending],
            [parameter for _, _, parameter, *_ in pending],
            [state for *_, state in pending],
            Context(loss=self._loss, total_steps=planned),
            maximize=maximize,
        )
        for (index, k, parameter, *_), delta, state in zip(
            pending, deltas, new_states, strict=True
        ):
            group = self.param_groups[index]
            group["params"][k] = apply_update(parameter, delta, group["lr"], group["weight_decay"])
            if not self._track_higher_grads:
                state = {key: value.detach() for key, value in state.items()}
            self.state[index][k] = state

    def _state_of(self, group: int, position: int, parameter: Tensor) -> State:
        state: State = self.state[group][position]
        return state if "step" in state else self.rule.init_state(parameter)


higher.register_optim(LearnedOptimizer, DifferentiableLearnedOptimizer)
