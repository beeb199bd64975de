"""What an optimizer is given: options of parameter groups, and what a closure returns."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from learned_opt.functional import one_element
from learned_opt.rules.base import UpdateRule

OF_ALL_GROUPS = ("rule", "chunk_size", "train_mode")
"""What groups cannot have apart."""


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what no parameter group can have.

    Raises:
        ValueError: names the option and the value.
    """
    if isinstance(options["lr"], Tensor):
        one_element(options["lr"])
    for name in ("lr", "weight_decay"):
        if not options[name] >= 0:  # NaN neither
            raise ValueError(f"{name} must be at least 0, got {options[name]}")
    total_steps = options["total_steps"]
    if total_steps is not None and total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")


def check_group(group: Mapping[str, Any], defaults: Mapping[str, Any], rule: UpdateRule) -> None:
    """Refuse a parameter group whose options the optimizer would not follow.

    Args:
        group: as the user gave it.
        defaults: the optimizer's.
        rule: the optimizer's.

    Raises:
        ValueError: an option out of range or missing, or one that groups cannot have apart.
    """
    for name in OF_ALL_GROUPS:
        if name in group and group[name] != defaults.get(name):
            raise ValueError(
                f"a parameter group has {name}, which is one for all groups: give it to the "
                "optimizer, or make an optimizer for each"
            )
    options = {**defaults, **group}
    check_options(options)
    if "total_steps" in rule.required_context() and options["total_steps"] is None:
        raise ValueError(f"rule {type(rule).__name__} needs total_steps")


def scalar_loss(loss: Any, rule: UpdateRule) -> Tensor | None:
    """What a closure returned as a 0-dim tensor; None where it is no number and the rule can do.

    Raises:
        ValueError: the rule reads the loss, and it is no number.
    """
    if loss is None:
        return None
    if isinstance(loss, Tensor):
        if loss.numel() == 1 and not loss.is_complex():
            return loss.detach() if loss.dim() == 0 else loss.detach().reshape(())
    elif isinstance(loss, numbers.Real):
        return torch.tensor(float(loss), device="cpu")  # not that of a torch.device context
    if "loss" in rule.required_context():
        got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"rule {type(rule).__name__} reads the loss: the closure must return one real number, "
            f"got {got}"
        )
    return None
