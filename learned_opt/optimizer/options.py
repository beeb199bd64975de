"""Checks of an optimizer's arguments: options of parameter groups, and the closure's loss."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from learned_opt.checks.arguments import shown
from learned_opt.checks.setting_types import plain
from learned_opt.functional import one_element
from learned_opt.rules.base import UpdateRule

SHARED_OPTIONS = ("rule", "chunk_size", "train_mode")
"""Options that all parameter groups share."""

UNSUPPORTED = ("foreach", "capturable")
"""Options of torch's optimizers that choose an implementation; frameworks pass them on."""


OTHERS = frozenset(
    {
        *("betas", "eps", "momentum", "dampening", "nesterov", "amsgrad", "alpha", "centered"),
        *("rho", "lambd", "momentum_decay", "etas", "ns_steps"),
    }
)
"""Options of torch's own optimizers that no rule here reads: a rule's constants are its own."""


def check_options(options: Mapping[str, Any]) -> None:
    """Check the options of a parameter group.

    Raises:
        ValueError: an option is out of range; the message names it and its value.
    """
    for name in ("lr", "weight_decay"):
        value = options[name]
        if isinstance(value, Tensor):
            one_element(value, name)
        if not _is_number(value):
            raise ValueError(f"{name} must be a number, got {shown(value)}{_as_keyword(value)}")
        if not value >= 0:  # refuses NaN, too
            raise ValueError(f"{name} must be at least 0, got {value!r}")
    if isinstance(options["maximize"], str) or options["maximize"] not in (True, False):
        raise ValueError(f"maximize must be True or False, got {options['maximize']!r}")
    if options["total_steps"] is not None:
        whole_number("total_steps", options["total_steps"])
    for name in UNSUPPORTED:
        if options.get(name):
            raise ValueError(f"{name}={options[name]} is not supported, only None or False")


def _is_number(value: Any) -> bool:
    return isinstance(value, (numbers.Real, Tensor)) and not isinstance(value, bool)


def _as_keyword(value: Any) -> str:
    """The advice for a rule that was passed as the learning rate; else empty."""
    named = isinstance(value, str) and value[:1].isalpha()
    return ": give a rule as rule=..." if named or isinstance(value, UpdateRule) else ""


def checked_fused(fused: Any) -> bool | None:
    """The option `fused` as True, False or None.

    Raises:
        ValueError: not True, False or None.
    """
    if fused is None or (not isinstance(fused, str) and fused in (True, False)):
        return None if fused is None else bool(fused)
    raise ValueError(f"fused must be True, False or None, got {fused!r}")


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """A number of at least `least` as a Python int.

    Raises:
        ValueError: not a whole number of at least `least`.
    """
    number = plain(value)
    known = isinstance(number, (int, float)) and not isinstance(number, bool)
    if not known or number != number // 1 or number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {shown(value)}")
    return int(number)


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options with Python's numbers, which any file can hold; a tensor stays one, 0-dim."""
    made = {**options, "maximize": bool(options["maximize"])}
    for name in ("lr", "weight_decay"):
        value = made[name]
        made[name] = one_element(value, name) if isinstance(value, Tensor) else plain(value)
    if made["total_steps"] is not None:
        made["total_steps"] = whole_number("total_steps", made["total_steps"])
    return made


def check_group(group: Mapping[str, Any], defaults: Mapping[str, Any], rule: UpdateRule) -> None:
    """Check a parameter group before it is added.

    Args:
        group: as the user gave it.
        defaults: the optimizer's.
        rule: the optimizer's.

    Raises:
        ValueError: an option is out of range, missing, shared by all groups, or read by none.
    """
    for name in SHARED_OPTIONS:
        if name in group and group[name] != defaults.get(name):
            raise ValueError(
                f"a parameter group has its own {name}, but all groups share one: give it to the "
                "optimizer, or make two optimizers"
            )
    if group.get("fused"):
        raise ValueError("fused=True is not for one parameter group: give it to the optimizer")
    options = {**defaults, **group}
    check_options(options)
    check_direction(options["direction"], rule)
    ignored = [name for name in group if name in OTHERS]
    if ignored:
        raise ValueError(
            f"a parameter group has {', '.join(ignored)}, which rule {type(rule).__name__} would "
            "not read: leave it out. The constants of a rule are set where it is made, as in "
            'rule=create_rule("adam", betas=(0.8, 0.99))'
        )
    if "total_steps" in rule.required_context() and options["total_steps"] is None:
        raise ValueError(
            f"rule {type(rule).__name__} needs total_steps, the planned number of optimizer steps: "
            "LearnedOptimizer(model.parameters(), rule=..., total_steps=epochs * len(loader))"
        )


def check_made_here(saved: Sequence[Mapping[str, Any]]) -> None:
    """Refuse saved groups of another optimizer, whose learning rate means something else.

    Its state is refused by the tensors that it lacks; but there is none before the first step, and
    some rules keep none.

    Raises:
        ValueError: there is no rule in them, and an option that only torch's own optimizers have.
    """
    for group in saved:
        theirs = [name for name in group if name in OTHERS]
        if theirs and "rule" not in group:
            raise ValueError(
                "the loaded state was made by another optimizer: its groups have "
                f"{', '.join(theirs)}. Load the model alone, and let this optimizer begin anew"
            )


def check_direction(direction: Any, rule: UpdateRule) -> None:
    """Check the option `direction` of a parameter group.

    Raises:
        ValueError: not one of the rule's.
    """
    if direction is not None and direction not in rule.directions:
        choices = " or ".join(map(repr, (*rule.directions, None)))
        raise ValueError(
            f"direction must be {choices} under rule {type(rule).__name__}, got {direction!r}"
        )


def scalar_loss(loss: Any, rule: UpdateRule) -> Tensor | None:
    """The closure's return value as a 0-dim tensor; None if it is no number and none is needed.

    Raises:
        ValueError: the rule reads the loss, and the value is not one real number.
    """
    if loss is None:
        return None
    if isinstance(loss, Tensor):
        if loss.numel() == 1 and not loss.is_complex():
            return loss.detach() if loss.dim() == 0 else loss.detach().reshape(())
    elif isinstance(loss, numbers.Real):
        # On the CPU also inside a torch.device context, and in float32 whatever the default.
        return torch.tensor(float(loss), dtype=torch.float32, device="cpu")
    if "loss" in rule.required_context():
        got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"rule {type(rule).__name__} reads the loss: the closure must return one real number, "
            f"got {got}"
        )
    return None
