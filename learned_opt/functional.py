"""The step around a rule that all drivers share.

    theta' = theta - lr * weight_decay * factor * theta + lr * delta

with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101). The factor is 1, or the
schedule of a rule that has its own. The in-place optimizer,
the unroll of `meta_train` and the bridge to `higher` all call these functions.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from learned_opt.checks.arguments import check_type, shown
from learned_opt.rules.base import Context, State, UpdateRule
from learned_opt.rules.step_inputs import check_inputs, explain_failure


def apply_rule(
    rule: UpdateRule,
    gradients: Sequence[Tensor],
    parameters: Sequence[Tensor],
    states: Sequence[State],
    context: Context,
    *,
    lr: float | Tensor,
    weight_decay: float | Tensor = 0.0,
    maximize: bool = False,
) -> tuple[list[Tensor], list[State]]:
    """Take one differentiable step; nothing changes in place.

    Values of tensors are not checked: a gradient that is not finite moves its parameter to NaN.

    Args:
        rule: the update rule.
        gradients: real floating-point tensors, `[*param]` each.
        parameters: tensors of the same shapes.
        states: one state per tensor (`UpdateRule.init_state`).
        context: see `Context`.
        lr: multiplies the whole update; a finite number, or a tensor of one element.
        weight_decay: decoupled weight decay; a number of at least 0, or a tensor of one element.
        maximize: maximise the objective instead of minimising it.

    Returns:
        New parameters in the dtypes of the old ones, and new states.

    Raises:
        TypeError: an argument, or an entry of a list, is of another type; the message names it.
        ValueError: lists of different lengths, a gradient of another shape than its parameter, a
            state of another rule or shape, a tensor that is sparse or holds integers or complex
            numbers, an `lr` or `weight_decay` out of range, or wrong results of the rule.

    Examples:
        >>> rule, parameters = create_rule("sgd"), [torch.ones(2)]
        >>> states = [rule.init_state(parameter) for parameter in parameters]
        >>> gradients = [torch.tensor([1.0, -1.0])]
        >>> parameters, states = apply_rule(rule, gradients, parameters, states, Context(), lr=0.5)
        >>> parameters
        [tensor([0.5000, 1.5000])]
    """
    check_inputs(rule, gradients, parameters, states, context)
    check_type("maximize", maximize, bool, "True or False")
    lr = one_element(lr) if isinstance(lr, Tensor) else check_lr(lr)
    weight_decay = _checked_decay(weight_decay)
    try:
        deltas, new_states = compute_updates(
            rule, gradients, parameters, states, context, maximize=maximize
        )
    except (RuntimeError, ValueError, IndexError):
        explain_failure(rule, gradients, parameters, states)
        raise
    moved = [
        apply_update(parameter, delta, lr, scheduled_decay(rule, weight_decay, state, context))
        for parameter, delta, state in zip(parameters, deltas, new_states, strict=True)
    ]
    return moved, new_states


def without_autocast(device_types: Iterable[str]) -> ExitStack:
    """A context without autocast: that is for the optimizee, a rule computes in its own dtype."""
    stack = ExitStack()
    for device_type in device_types:
        if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
            stack.enter_context(torch.autocast(device_type, enabled=False))
    return stack


def compute_updates(
    rule: UpdateRule | Callable[..., tuple[list[Tensor], list[State]]],
    gradients: Sequence[Tensor],
    parameters: Sequence[Tensor],
    states: Sequence[State],
    context: Context,
    *,
    maximize: bool = False,
) -> tuple[list[Tensor], list[State]]:
    """Compute the deltas of a rule, or of a function with its signature, outside of autocast.

    With `maximize`, the rule gets negated gradients and a negated loss.
    """
    if maximize:
        gradients = [-gradient for gradient in gradients]
        loss = None if context.loss is None else -context.loss
        context = replace(context, loss=loss)
    with without_autocast({gradient.device.type for gradient in gradients}):
        deltas, new_states = rule(gradients, parameters, states, context)
    return deltas, new_states


def scheduled_decay(
    rule: UpdateRule, weight_decay: float | Tensor, state: State, context: Context
) -> float | Tensor:
    """The weight decay times the rule's own schedule, at the step that led to `state`."""
    if not isinstance(weight_decay, Tensor) and weight_decay == 0:
        return weight_decay
    return weight_decay * rule.decay_factor(state, context)


def apply_update(
    parameter: Tensor, delta: Tensor, lr: float | Tensor, weight_decay: float | Tensor = 0.0
) -> Tensor:
    """Parameter + lr * delta - lr * weight_decay * parameter, in the wider dtype, cast once."""
    wide = parameter.to(torch.promote_types(parameter.dtype, delta.dtype))
    moved = wide + lr * delta
    if isinstance(weight_decay, Tensor) or weight_decay != 0:
        moved = moved - lr * weight_decay * wide
    return moved.to(parameter.dtype)


def half_square_distance(values: Mapping[str, Tensor], anchors: Mapping[str, Tensor]) -> Tensor:
    """|values - anchors|^2 / 2 over all tensors of `values`, 0-dim; iMAML's proximal term."""
    squares = [(value - anchors[key]).square().sum() for key, value in values.items()]
    return torch.stack(squares).sum() / 2


def one_element(value: Tensor, name: str = "lr") -> Tensor:
    """A learning rate, or another factor, as a 0-dim tensor.

    Raises:
        ValueError: it does not have exactly one element, or is complex.
    """
    if value.numel() != 1:
        raise ValueError(f"a tensor {name} must have one element, got shape {tuple(value.shape)}")
    if value.is_complex():
        raise ValueError(f"a tensor {name} must be real, got {value.dtype}")
    return value if value.dim() == 0 else value.reshape(())


def check_lr(lr: Any) -> float:
    """The learning rate as a Python float, which a file can hold.

    Raises:
        ValueError: not a finite number.
    """
    number = _plain(lr)
    if not math.isfinite(number):
        raise ValueError(f"lr must be a finite number, got {shown(lr)}")
    return number


def _checked_decay(value: Any) -> float | Tensor:
    """A weight decay as a Python float or a 0-dim tensor.

    Raises:
        ValueError: not a finite number of at least 0, or a tensor of several elements.
    """
    if isinstance(value, Tensor):
        return one_element(value, "weight_decay")
    number = _plain(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"weight_decay must be finite and at least 0, got {shown(value)}")
    return number


def _plain(value: Any) -> float:
    """A number of any type as a float; NaN if it is not a number."""
    try:
        return math.nan if isinstance(value, (str, bool)) else float(value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def check_steps(steps: Any) -> int:
    """The number of steps as a Python int.

    Raises:
        ValueError: not a whole number of at least 0.
    """
    try:
        count = -1 if isinstance(steps, bool) else operator.index(steps)
    except TypeError:
        count = -1
    if count < 0:
        raise ValueError(f"steps must be a whole number of at least 0, got {shown(steps)}")
    return count


def check_proximal(strength: Any) -> float:
    """The proximal strength (iMAML's lambda) as a Python float.

    Raises:
        ValueError: not a finite number of at least 0.
    """
    number = _plain(strength)
    if not 0 <= number < math.inf:
        raise ValueError(f"proximal must be finite and at least 0, got {shown(strength)}")
    return number
