"""The step of a rule in one inner run or many, each with weights of its own if they are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor
from torch.func import functional_call, vmap

from learned_opt.functional import apply_update, compute_updates, scheduled_decay
from learned_opt.rules.base import Context, State, UpdateRule
from meta_train.inner.step.masking import lead

Moved: TypeAlias = tuple[list[Tensor], list[State]]
"""Parameters and states of the rule after a step."""


@dataclass(frozen=True)
class StepInput:
    """The input of a step of one run or of many.

    Attributes:
        weight_decay: decoupled weight decay.
        gradients: `[*param]` each, or `[runs, *param]`.
        parameters: of the same shapes.
        states: the rule's state for each parameter.
        loss: the inner loss, 0-dim or `[runs]`, or None to hide it.
        lr: factor on the update; `[runs]` sets one for each run.
        total: the planned number of steps, 0-dim or `[runs]`, if known.
        weights: other weights of the rule by name, `[*weight]` or `[runs, *weight]`.
    """

    weight_decay: float
    gradients: list[Tensor]
    parameters: list[Tensor]
    states: list[State]
    loss: Tensor | None
    lr: float | Tensor
    total: Tensor | None
    weights: Mapping[str, Tensor] | None

    def of_runs(self) -> tuple[Any, ...]:
        """All but the weight decay, which all runs share, in the order of the attributes."""
        return (
            self.gradients,
            self.parameters,
            self.states,
            self.loss,
            self.lr,
            self.total,
            self.weights,
        )


def rule_step(rule: UpdateRule, given: StepInput) -> Moved:
    """Move the parameters of one run; `vmap` makes it the step of many."""

    def stepping(*arguments: Any) -> Any:
        return functional_call(rule, dict(given.weights or {}), arguments)

    context = Context(loss=given.loss, total_steps=given.total)
    chosen = rule if given.weights is None else stepping
    deltas, new_states = compute_updates(
        chosen, given.gradients, given.parameters, given.states, context
    )
    moved = [
        apply_update(
            parameter,
            delta,
            lead(given.lr, parameter) if isinstance(given.lr, Tensor) else given.lr,
            scheduled_decay(rule, given.weight_decay, state, context),
        )
        for parameter, delta, state in zip(given.parameters, deltas, new_states, strict=True)
    ]
    return moved, new_states


def rule_steps(rule: UpdateRule, given: StepInput) -> Moved:
    """Take the steps of many runs under `vmap`; tensors of `given` have the axis of runs."""

    def one(*of_run: Any) -> Moved:
        return rule_step(rule, StepInput(given.weight_decay, *of_run))

    lr, total = given.lr, given.total
    axes = (
        *(0, 0, 0),
        None if given.loss is None else 0,
        0 if isinstance(lr, Tensor) and lr.dim() else None,
        0 if total is not None and total.dim() else None,
        None if given.weights is None else 0,
    )
    found: Moved = vmap(one, axes)(*given.of_runs())
    return found
