"""The bridge to `higher`: after this import, `higher.innerloop_ctx` takes a `LearnedOptimizer`.

`higher`: Grefenstette et al. 2019, arXiv 1910.01727. Install it with the extra "higher". It takes
what accelerate's `prepare` made of an optimizer, too.

Examples:
    >>> import higher
    >>> import learned_opt.differentiable
    >>> rule = create_rule("lstm")
    >>> optimizer = LearnedOptimizer(model.parameters(), rule=rule)
    >>> with higher.innerloop_ctx(model, optimizer) as (functional_model, inner_optimizer):
    ...     for _ in range(3):
    ...         loss = nn.functional.cross_entropy(functional_model(inputs), targets)
    ...         parameters = inner_optimizer.step(loss)
    ...     nn.functional.cross_entropy(functional_model(inputs), targets).backward()
    >>> rule.head.weight.grad.abs().sum() > 0
    tensor(True)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any, TypeAlias

import torch
from torch import Tensor

from learned_opt.functional import apply_update, compute_updates, scheduled_decay
from learned_opt.optimizer.evaluation_mode import check_training
from learned_opt.optimizer.learned_optimizer import LearnedOptimizer
from learned_opt.optimizer.state_dict import check_directions
from learned_opt.rules.base import Context, State

try:
    import higher
    from higher.optim import DifferentiableOptimizer
except ImportError as error:
    raise ImportError(
        "learned_opt.differentiable needs higher, which is not installed: "
        "python -m pip install 'learned-opt[higher]'"
    ) from error

_Call: TypeAlias = tuple[torch.device, bool, int | None]
"""Device, `maximize` and `total_steps`."""

_Pending: TypeAlias = tuple[int, int, Tensor, Tensor, State]
"""Group, position in it, parameter, gradient, state."""


class DifferentiableLearnedOptimizer(DifferentiableOptimizer):  # type: ignore[misc]
    """A learned optimizer that `higher` can unroll; `higher` makes it from a `LearnedOptimizer`.

    It shares the rule, so a backward pass through the inner loop fills the gradients of the rule's
    weights. If the optimizer already holds state, the inner loop starts from a detached copy.

    Args:
        other: the optimizer to unroll.
        *args: see `higher.optim.DifferentiableOptimizer`.
        second_order: let the outer gradient flow through the inner gradients that the rule reads.
            False, the default, is usual for learned optimizers (Andrychowicz et al. 2016, section
            2.1), and differentiates the optimizee only once. To change it, set the attribute
            `second_order` of the optimizer that `innerloop_ctx` returns.
        **kwargs: see `higher.optim.DifferentiableOptimizer`.

    Raises:
        ValueError: complex parameters, or a group's `direction` was changed after its first step;
            in `step`, a rule that is not on the parameters' device.
        RuntimeError: the optimizer is in evaluation mode.
    """

    def __init__(
        self, other: LearnedOptimizer, *args: Any, second_order: bool = False, **kwargs: Any
    ) -> None:
        check_training(other.param_groups)
        check_directions(other.rule, other.param_groups, other.state)
        super().__init__(other, *args, **kwargs)
        if any(p.is_complex() for group in other.param_groups for p in group["params"]):
            raise ValueError("learned_opt.differentiable does not support complex parameters")
        # Not in the groups: higher deep-copies those, and a copied rule would get no gradient.
        self.rule = other.rule
        self.second_order = second_order
        self._loss: Tensor | None = None

    def step(
        self, loss: Tensor, params: Iterable[Tensor] | None = None, *args: Any, **kwargs: Any
    ) -> Iterable[Tensor]:
        """Take a step, as in `higher`; rules that read the loss get it."""
        # autograd takes a loss of one element in any shape, a rule a 0-dim one.
        self._loss = loss.detach().reshape(()) if loss.numel() == 1 else None
        new_params: Iterable[Tensor] = super().step(loss, params, *args, **kwargs)
        return new_params

    def _update(self, grouped_grads: list[list[Tensor | None]], **kwargs: Any) -> None:
        # One call of the rule for all groups, as in the optimizer: some rules share signals between
        # tensors.
        calls: dict[_Call, list[_Pending]] = {}
        for index, (group, grads) in enumerate(zip(self.param_groups, grouped_grads, strict=True)):
            for k, gradient in enumerate(grads):
                if gradient is None:
                    continue
                parameter = group["params"][k]
                gradient = gradient if self.second_order else gradient.detach()
                state = self._state_of(index, k, parameter, group["direction"])
                call = (parameter.device, group["maximize"], group["total_steps"])
                calls.setdefault(call, []).append((index, k, parameter, gradient, state))
        for call, pending in calls.items():
            self._apply(call, pending)

    def _apply(self, call: _Call, pending: Sequence[_Pending]) -> None:
        device, maximize, total_steps = call
        if device != self.rule.device:
            raise ValueError(
                f"the rule is on {self.rule.device} and parameters on {device}: move the rule to "
                "their device (a copy would get no gradient)"
            )
        planned = None
        if total_steps is not None:
            planned = torch.full((), float(total_steps), dtype=torch.float32, device=device)
        context = Context(loss=self._loss, total_steps=planned)
        deltas, new_states = compute_updates(
            self.rule,
            [gradient for *_, gradient, _ in pending],
            [parameter for _, _, parameter, *_ in pending],
            [state for *_, state in pending],
            context,
            maximize=maximize,
        )
        for (index, k, parameter, *_), delta, state in zip(
            pending, deltas, new_states, strict=True
        ):
            group = self.param_groups[index]
            decay = scheduled_decay(self.rule, group["weight_decay"], state, context)
            group["params"][k] = apply_update(parameter, delta, group["lr"], decay)
            if not self._track_higher_grads:
                state = {key: value.detach() for key, value in state.items()}
            self.state[index][k] = state

    def _state_of(
        self, group: int, position: int, parameter: Tensor, direction: str | None
    ) -> State:
        state: State = self.state[group][position]
        if "step" in state:
            return state
        return self.rule.init_state(parameter, direction=direction)


def _unroll_prepared(prepared: Any, *args: Any, **kwargs: Any) -> DifferentiableOptimizer:
    """Unroll the optimizer that accelerate has wrapped, ours or torch's."""
    return higher.optim.get_diff_optim(prepared.optimizer, *args, **kwargs)


def _register() -> None:
    higher.register_optim(LearnedOptimizer, DifferentiableLearnedOptimizer)
    if find_spec("accelerate") is None:
        return
    # Imported here, not looked up in sys.modules: the order of a user's imports must not matter.
    from accelerate.optimizer import AcceleratedOptimizer

    higher.register_optim(AcceleratedOptimizer, _unroll_prepared)


_register()
