"""The step of a rule in one inner run, with weights of the run's own if they are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from torch import Tensor
from torch.func import functional_call, vmap

from learned_opt.functional import apply_update, compute_updates, scheduled_decay
from learned_opt.rules.base import Context, State, UpdateRule
from meta_train.inner.masking import lead

Moved: TypeAlias = tuple[list[Tensor], list[State]]
"""Parameters and states of the rule after a step."""


def rule_step(
    rule: UpdateRule,
    weight_decay: float,
    gradients: list[Tensor],
    parameters: list[Tensor],
    states: list[State],
    loss: Tensor | None,
    lr: float | Tensor,
    total: Tensor | None,
    weights: Mapping[str, Tensor] | None,
) -> Moved:
    """Move the parameters of one run; `vmap` makes it the step of many.

    Args:
        rule: the update rule.
        weight_decay: decoupled weight decay.
        gradients: `[*param]` each.
        parameters: of the same shapes.
        states: the rule's state for each parameter.
        loss: the inner loss, or None to hide it.
        lr: factor on the update.
        total: the planned number of steps, if known.
        weights: other weights of the rule, by name.
    """

    def stepping(*arguments: Any) -> Any:
        return functional_call(rule, dict(weights or {}), arguments)

    context = Context(loss=loss, total_steps=total)
    chosen = rule if weights is None else stepping
    deltas, new_states = compute_updates(chosen, gradients, parameters, states, context)
    moved = [
        apply_update(
            parameter,
            delta,
            lead(lr, parameter) if isinstance(lr, Tensor) else lr,
            scheduled_decay(rule, weight_decay, state, context),
        )
        for parameter, delta, state in zip(parameters, deltas, new_states, strict=True)
    ]
    return moved, new_states


def rule_steps(
    rule: UpdateRule,
    weight_decay: float,
    gradients: list[Tensor],
    parameters: list[Tensor],
    states: list[State],
    loss: Tensor | None,
    lr: float | Tensor,
    total: Tensor | None,
    weights: Mapping[str, Tensor] | None,
) -> Moved:
    """Take the steps of many runs under `vmap`.

    Args:
        rule: see `rule_step`.
        weight_decay: see `rule_step`.
        gradients: `[runs, *param]` each.
        parameters: of the same shapes.
        states: `[runs, ...]`.
        loss: `[runs]` or None.
        lr: a number, or `[runs]`.
        total: one for all runs (0-dim), `[runs]`, or None.
        weights: `[runs, *weight]` by name, or None.
    """

    def one(*arguments: Any) -> Moved:
        return rule_step(rule, weight_decay, *arguments)

    axes = (
        *(0, 0, 0),
        None if loss is None else 0,
        0 if isinstance(lr, Tensor) and lr.dim() else None,
        0 if total is not None and total.dim() else None,
        None if weights is None else 0,
    )
    found: Moved = vmap(one, axes)(gradients, parameters, states, loss, lr, total, weights)
    return found
