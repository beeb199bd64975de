"""Checks the inputs of one step: tensors that fit each other, states of this rule, and its context.

Without these checks a wrong shape may be broadcast, an integer parameter rounded, an imaginary part
dropped, or another rule's momentum read, all in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from learned_opt.checks.arguments import shown
from learned_opt.rules.base import Context, UpdateRule

_Shapes: TypeAlias = Mapping[str, torch.Size]
"""Shapes of the state tensors of one parameter, by name."""

_KNOWN: WeakKeyDictionary[UpdateRule, dict[torch.Size, list[_Shapes]]] = WeakKeyDictionary()
"""By rule and shape of the parameter: the states that fit, that without a direction first."""


def check_inputs(rule: Any, gradients: Any, parameters: Any, states: Any, context: Any) -> None:
    """Check the inputs of one step: about a microsecond for each tensor, no wait for a device.

    Only what could pass a rule in silence is looked at here; `explain_failure` looks at the rest,
    once a step has failed. Values of tensors are not checked. States are not while torch.compile
    traces.

    Args:
        rule: the update rule.
        gradients: one for each tensor.
        parameters: the tensors.
        states: one for each tensor.
        context: the context of the step.

    Raises:
        TypeError: an argument, or an entry of a list, is of another type; the message names it.
        ValueError: the lists have different lengths, a tensor does not hold real floating-point
            numbers, a gradient has another shape than its parameter, another rule made a state, or
            a field of the context is no 0-dim tensor.
    """
    if not isinstance(rule, UpdateRule):
        raise TypeError(f"rule must be an UpdateRule, got {shown(rule)}: create_rule makes a rule")
    if not isinstance(context, Context):
        raise TypeError(f"context must be a Context, got {shown(context)}")
    if context.loss is not None:
        _check_number("loss", context.loss)
    if context.total_steps is not None:
        _check_number("total_steps", context.total_steps)
    for name, values in (("gradients", gradients), ("parameters", parameters), ("states", states)):
        # A tensor would be taken for the list of its rows.
        if not isinstance(values, (list, tuple, Sequence, nn.ParameterList)):
            raise TypeError(f"{name} must be a list, got {shown(values)}")
    if not len(gradients) == len(parameters) == len(states):
        raise ValueError(
            f"got {len(gradients)} gradients, {len(parameters)} parameters and {len(states)} states"
        )
    known = None if torch.compiler.is_compiling() else _KNOWN.setdefault(rule, {})
    for k, gradient in enumerate(gradients):
        parameter = parameters[k]
        if not (isinstance(gradient, Tensor) and gradient.is_floating_point()):
            raise _wrong_tensor("gradients", k, gradient)
        if not (isinstance(parameter, Tensor) and parameter.is_floating_point()):
            raise _wrong_tensor("parameters", k, parameter)
        shape = parameter.shape
        if gradient.shape != shape:
            raise ValueError(
                f"gradients[{k}] has shape {list(gradient.shape)}, its parameter {list(shape)}"
            )
        if known is not None:
            fitting = known.get(shape)
            if fitting is None:
                fitting = known[shape] = _states_that_fit(rule, parameter)
            _check_names(rule, k, states[k], parameter, fitting)


def explain_failure(
    rule: UpdateRule,
    gradients: Sequence[Tensor],
    parameters: Sequence[Tensor],
    states: Sequence[Mapping[str, Any]],
) -> None:
    """Look for the reason of a step's failure in inputs that `check_inputs` has let pass.

    Raises:
        ValueError: a gradient is sparse, a state was made for another shape, or holds something
            else than tensors.
    """
    for k, gradient in enumerate(gradients):
        if gradient.layout is not torch.strided:
            raise ValueError(f"gradients[{k}] is sparse: not supported")
    for k, state in enumerate(states):
        fitting = _states_that_fit(rule, parameters[k])
        problems = [_misfit(state, shapes) for shapes in fitting]
        if problems and None not in problems:
            raise _wrong_state(rule, k, parameters[k], problems[0])


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, Tensor) or value.dim():
        raise ValueError(f"context.{name} must be a 0-dim tensor, got {shown(value)}")


def _wrong_tensor(name: str, k: int, value: object) -> TypeError | ValueError:
    if value is None:
        return TypeError(f"{name}[{k}] is None: leave the tensor out of all three lists")
    if not isinstance(value, Tensor):
        return TypeError(f"{name}[{k}] must be a tensor, got {shown(value)}")
    return ValueError(f"{name}[{k}] must hold real floating-point numbers, got {value.dtype}")


def _check_names(
    rule: UpdateRule, k: int, state: object, parameter: Tensor, fitting: Sequence[_Shapes]
) -> None:
    """Check that a state has the tensors of one that fits, by name, and one count of steps.

    Raises:
        TypeError: it is no dict.
        ValueError: another rule made it.
    """
    if not isinstance(state, (dict, Mapping)):
        raise TypeError(f"states[{k}] must be a dict of tensors, got {shown(state)}")
    names = state.keys()
    for shapes in fitting:
        if names == shapes.keys():
            step = state["step"]
            if isinstance(step, Tensor) and step.dim() == 0:
                return
    if fitting:
        raise _wrong_state(rule, k, parameter, _misfit(state, fitting[0]))


def _wrong_state(rule: UpdateRule, k: int, parameter: Tensor, problem: str | None) -> ValueError:
    return ValueError(
        f"states[{k}] has {problem}: rule {type(rule).__name__} did not make it for a parameter of "
        f"shape {list(parameter.shape)}, see init_state"
    )


def _misfit(state: Mapping[str, object], shapes: _Shapes) -> str | None:
    """The first difference of a state from these tensors; None if there is none."""
    if state.keys() != shapes.keys():
        missing = sorted(shapes.keys() - state.keys())
        return f"no {missing[0]!r}" if missing else repr(min(state.keys() - shapes.keys()))
    for key, shape in shapes.items():
        value = state[key]
        if not isinstance(value, Tensor):
            return f"{shown(value)} as {key!r}"
        if value.shape != shape:
            return f"{key!r} of shape {list(value.shape)}, not {list(shape)}"
    return None


def _states_that_fit(rule: UpdateRule, parameter: Tensor) -> list[_Shapes]:
    """The states that a rule makes for a parameter; none if it cannot make them on meta."""
    like = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
    found: list[_Shapes] = []
    for direction in (None, *rule.directions):
        try:
            state = rule.init_state(like, direction=direction)
        except RuntimeError:  # a user's rule that reads values has none to read
            return []
        found.append({key: value.shape for key, value in state.items()})
    return found
