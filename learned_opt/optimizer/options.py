"""Checks of an optimizer's arguments: options of parameter groups, and the closure's loss."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from learned_opt.functional import one_element
from learned_opt.rules.base import UpdateRule

SHARED_OPTIONS = ("rule", "chunk_size", "train_mode")
"""Options that all parameter groups share."""


def check_options(options: Mapping[str, Any]) -> None:
    """Check the options of a parameter group.

    Raises:
        ValueError: an option is out of range; the message names it and its value.
    """
    if isinstance(options["lr"], Tensor):
        one_element(options["lr"])
    for name in ("lr", "weight_decay"):
        if not options[name] >= 0:  # refuses NaN, too
            raise ValueError(f"{name} must be at least 0, got {options[name]}")
    total_steps = options["total_steps"]
    if total_steps is not None and total_steps < 1:
        raise ValueError(f"total_steps must be at least 1, got {total_steps}")


def check_group(group: Mapping[str, Any], defaults: Mapping[str, Any], rule: UpdateRule) -> None:
    """Check a parameter group before it is added.

    Args:
        group: as the user gave it.
        defaults: the optimizer's.
        rule: the optimizer's.

    Raises:
        ValueError: an option is out of range, missing, or shared by all groups.
    """
    for name in SHARED_OPTIONS:
        if name in group and group[name] != defaults.get(name):
            raise ValueError(
                f"a parameter group has its own {name}, but all groups share one: give it to the "
                "optimizer, or make two optimizers"
            )
    options = {**defaults, **group}
    check_options(options)
    if "total_steps" in rule.required_context() and options["total_steps"] is None:
        raise ValueError(f"rule {type(rule).__name__} needs total_steps")


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
        return torch.tensor(
            float(loss), dtype=torch.float32, device="cpu"
        )  # also inside a torch.device context
    if "loss" in rule.required_context():
        got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            f"rule {type(rule).__name__} reads the loss: the closure must return one real number, "
            f"got {got}"
        )
    return None
