"""Loads optimizer state exactly: checked, in the rule's dtype, on the parameter's device.

`torch.optim.Optimizer.load_state_dict` casts every floating-point state tensor to the dtype of its
parameter, which would round recurrent state to bfloat16. So the loaded state is checked, wrapped in
a type that the base class passes through, and unwrapped afterwards.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from learned_opt.checks.arguments import shown
from learned_opt.not_compiled import not_compiled
from learned_opt.optimizer import sharding
from learned_opt.optimizer.evaluation_mode import TRAINING_VALUE, check_loaded
from learned_opt.optimizer.options import check_direction, check_made_here
from learned_opt.real_tensors import has_no_values
from learned_opt.rules.base import State, UpdateRule
from learned_opt.weights import rule_digest


@dataclass(frozen=True)
class _LoadedState:
    """The saved state of one parameter, of a type that the base class does not cast."""

    tensors: Mapping[str, Any]


def ensure_state(state: State, rule: UpdateRule, parameter: Tensor, direction: str | None) -> State:
    """Make the state of a parameter if there is none yet, and return it."""
    if "step" not in state:
        state.update(sharding.init_state(rule, parameter, direction))
    elif state["step"].device != parameter.device:  # ZeroRedundancyOptimizer loads it to the CPU
        state["step"] = state["step"].to(parameter.device)
    return state


def check_and_wrap(
    rule: UpdateRule, optimizer: Optimizer, state_dict: dict[str, Any]
) -> dict[str, Any]:
    """Check a state dict against the rule and the optimizer, and wrap its state against casts.

    Returns:
        A state dict whose state `unwrap_loaded` takes out again.

    Raises:
        ValueError: another rule or optimizer made it, a tensor is missing or of the wrong shape or
            kind, `step` is no count, it was saved in evaluation mode without the weights to train
            on, or its named parameters are in another order.
    """
    saved_groups = state_dict["param_groups"]
    check_made_here(saved_groups)
    now = rule_digest(rule)  # the groups have that of the rule when the optimizer was built
    for saved, group in zip(saved_groups, optimizer.param_groups, strict=False):
        if "rule" in saved and saved["rule"] not in (group["rule"], now):
            raise ValueError(
                f"the loaded state was made by rule {saved['rule']}, "
                f"this optimizer runs rule {group['rule']}: build it with the rule of the saved one"
            )
    _check_order(saved_groups, optimizer.param_groups)
    check_loaded(saved_groups, state_dict["state"], rule)
    ids = chain.from_iterable(group["params"] for group in saved_groups)
    parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    known = dict(zip(ids, parameters, strict=False))
    # The saved options will be the optimizer's.
    directions = {key: g.get("direction") for g in saved_groups for key in g["params"]}
    for key, state in state_dict["state"].items():
        if key in known and state:
            _check_tensors(rule, key, state, known[key], directions.get(key))
    wrapped = {
        key: _LoadedState(state) if key in known else state
        for key, state in state_dict["state"].items()
    }
    return {**state_dict, "state": wrapped}


def _check_order(saved: Iterable[Mapping[str, Any]], own: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a state of the same named parameters in another order.

    States go to parameters by position, as in torch.optim: those of equal shape would get each
    other's without a word.
    """
    theirs, ours = _names(saved), _names(own)
    if theirs != ours and sorted(theirs) == sorted(ours):
        at = next(k for k, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        raise ValueError(
            f"the loaded state has its parameters in another order: number {at} is {theirs[at]!r} "
            f"there and {ours[at]!r} here. Give the optimizer its parameters in the saved order"
        )


def _names(groups: Iterable[Mapping[str, Any]]) -> list[str]:
    return [name for group in groups for name in group.get("param_names") or ()]


def _check_tensors(
    rule: UpdateRule,
    key: object,
    state: Mapping[str, Any],
    parameter: Tensor,
    direction: str | None,
) -> None:
    needed = fresh_on_meta(rule, parameter, direction)
    if TRAINING_VALUE in state:
        needed[TRAINING_VALUE] = parameter
    for name, tensor in needed.items():
        if name not in state:
            if name in rule.added_state:
                continue
            raise ValueError(
                f"the loaded state of parameter {key} has no {name!r}: another optimizer made it, "
                "or an earlier version of this rule"
            )
        if name == "step":
            _check_step(key, state[name])
        else:
            _check_kind(key, name, state[name], tensor)
        shape = tuple(torch.as_tensor(state[name]).shape)
        if shape != tuple(tensor.shape):
            raise ValueError(
                f"the loaded state of parameter {key} has {name!r} of shape {shape}, "
                f"the rule needs {tuple(tensor.shape)}"
            )
    sharding.check_state(key, state, parameter)


def _check_step(key: object, value: Any) -> None:
    """Refuse a number of steps that is no count: it is read when the state has been replaced."""
    try:
        tensor = torch.as_tensor(value)
        if tensor.dim() or has_no_values(tensor):
            return  # Its shape is checked next, and it has no value to read.
        plain = tensor.layout == torch.strided and not tensor.is_complex()
        number = float(tensor) if plain else math.nan
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise ValueError(
            f"the loaded state of parameter {key} has 'step' {shown(value)}: the rule needs a "
            "number of steps"
        )


def _check_kind(key: object, name: str, value: Any, needed: Tensor) -> None:
    """Refuse what is no dense tensor of floating-point or complex numbers, as the rule needs."""
    if not isinstance(value, Tensor):
        found = f"of type {type(value).__name__}"
    elif value.layout != torch.strided:
        found = f"of layout {value.layout}"
    elif (value.is_floating_point(), value.is_complex()) != (
        needed.is_floating_point(),
        needed.is_complex(),
    ):
        found = f"of dtype {value.dtype}"
    else:
        return
    raise ValueError(
        f"the loaded state of parameter {key} has {name!r} {found}: the rule needs a dense tensor "
        f"of {'complex' if needed.is_complex() else 'floating-point'} numbers"
    )


def fresh_on_meta(rule: UpdateRule, parameter: Tensor, direction: str | None = None) -> State:
    """The state of a parameter that has taken no step, without values."""
    # Not empty_like: a sharded parameter's state has the whole tensor's shape.
    like = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
    return rule.init_state(sharding.local_part(like), direction=direction)


@not_compiled
def check_directions(
    rule: UpdateRule, groups: Iterable[Mapping[str, Any]], states: Mapping[Tensor, State]
) -> None:
    """Refuse an option `direction` that is not the one that the state was made for.

    Stepping by the state's direction would ignore the option silently, and the checkpoint of such
    an optimizer could not be loaded.

    Raises:
        ValueError: a group's option is another, or no option at all.
    """
    for index, group in enumerate(groups):
        direction = group["direction"]
        check_direction(direction, rule)
        for parameter in group["params"] if rule.directions else ():
            state = states.get(parameter, {})
            fresh = fresh_on_meta(rule, parameter, direction) if state else {}
            if any(key in state and state[key].dim() != new.dim() for key, new in fresh.items()):
                raise ValueError(
                    f'param_groups[{index}]["direction"] is {direction!r}, but was another when '
                    "the state of its tensors was made: set it before the first step"
                )


def unwrap_loaded(rule: UpdateRule, optimizer: Optimizer) -> None:
    """Replace wrapped state by copies on the parameters' devices, in the dtypes of the rule."""
    for parameter, state in optimizer.state.items():
        if isinstance(state, _LoadedState):
            optimizer.state[parameter] = _restore(state.tensors, rule, parameter)


def _restore(saved: Mapping[str, Any], rule: UpdateRule, parameter: Tensor) -> State:
    dtypes = {key: value.dtype for key, value in fresh_on_meta(rule, parameter).items()}
    dtypes[TRAINING_VALUE] = parameter.dtype
    state: State = {}
    for key, value in saved.items():
        if key == "step" or isinstance(value, Tensor):
            tensor = torch.as_tensor(value).detach()
            floating = key == "step" or tensor.is_floating_point()
            dtype = dtypes.get(key, rule.dtype) if floating else tensor.dtype
            if key != "step":
                tensor = sharding.place_like(parameter, key, tensor, rule)
            copied = tensor.to(parameter.device, dtype, copy=True)
            state[key] = sharding.unit_major_parts(copied, parameter)
        else:
            state[key] = copy.deepcopy(value)
    if any(key not in saved for key in rule.added_state):
        state = {**sharding.init_state(rule, parameter, None), **state}
    return state


def copy_rule(rule: UpdateRule, device: torch.device) -> UpdateRule:
    """A copy of a rule on another device, without its gradients."""
    with torch.no_grad():
        duplicate = copy.deepcopy(rule).to(device)
    return duplicate.requires_grad_(False)
