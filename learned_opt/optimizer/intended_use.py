"""Warns of a rule at Adam's learning rate, or on models that its weights were not made for."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from learned_opt.not_compiled import not_compiled
from learned_opt.rules.base import UpdateRule
from learned_opt.weights import bundled_name


@dataclass(frozen=True)
class Purpose:
    """The models that bundled weights were made for, told by the shapes of their parameters.

    Attributes:
        text: names those models; follows "was meta-trained for".
        parameters: most parameters of such a model.
        axes: most dimensions of one of its parameters.
    """

    text: str
    parameters: int
    axes: int


SPECIALISTS: Mapping[str, Purpose] = MappingProxyType(
    {
        "andrychowicz-lstm": Purpose("sigmoid perceptrons on digits, for 100 steps", 100_000, 2),
        "digits-lstm": Purpose(
            "small perceptrons with cross entropy, for hundreds of steps", 100_000, 2
        ),
    }
)
"""Bundled weights that are not for general use, by name."""


def warn_if_elsewhere(name: str | None, parameters: Sequence[Tensor]) -> None:
    """Warn of a specialist that is built on another kind of model, and say what it is for.

    Args:
        name: of bundled weights, or None.
        parameters: of the model; nothing is said if one has no shape yet.
    """
    if name is None or name not in SPECIALISTS or any(map(is_lazy, parameters)):
        return
    purpose = SPECIALISTS[name]
    count = sum(math.prod(parameter.shape) for parameter in parameters)
    if any(parameter.dim() > purpose.axes for parameter in parameters):
        found = "parameters with more than two dimensions, such as convolutions"
    elif count > purpose.parameters:
        found = f"{count:,} parameters"
    else:
        return
    warnings.warn(
        f"{name} was meta-trained for {purpose.text}; this model has {found}. There, expect it to "
        "be worse than tuned Adam. The default rule is for general use: "
        "LearnedOptimizer(model.parameters())",
        UserWarning,
        stacklevel=3,  # the line that built the optimizer
    )


def warn_if_small(
    rule: UpdateRule, name: str | None, rates: Sequence[float | Tensor], *, frames: int = 3
) -> None:
    """Warn of learning rates that were meant for Adam, where the rule needs none.

    One group with the rule's own, or a larger one, shows that the others are meant relative to it.

    Args:
        rule: the optimizer's.
        name: of bundled weights, or None. Hand-made rules other than the default need a
            learning rate, and so may weights of the user's own.
        rates: of all groups.
        frames: up to the line that built the optimizer, or chose the rates.
    """
    lr = max(map(float, rates)) if rule.averages or name is not None else 0.0
    if 0 < lr <= rule.default_lr / 5:
        warnings.warn(
            f"lr={lr:g} makes every step {rule.default_lr / lr:.1f} times smaller: "
            f"it multiplies the update of rule {type(rule).__name__}, and is not Adam's learning "
            f"rate. The default is {rule.default_lr:g}",
            UserWarning,
            stacklevel=frames,
        )


class SchedulePeak:
    """Warns once, at a step, where `OneCycleLR` was given a largest rate that was meant for Adam.

    It writes its own rates over that of the constructor, which was looked at.
    """

    def __init__(self) -> None:
        self._looked = False

    def look(self, rule: UpdateRule, groups: Sequence[Mapping[str, Any]]) -> None:
        """Look at the groups of an optimizer that is about to step."""
        if not self._looked and any("max_lr" in group for group in groups):
            self._warn(rule, groups)

    @not_compiled
    def _warn(self, rule: UpdateRule, groups: Sequence[Mapping[str, Any]]) -> None:
        self._looked = True
        name = bundled_name(groups[0]["rule"]) if list(rule.parameters()) else None
        # The line that called step, beyond torch's wrappers.
        warn_if_small(rule, name, [group.get("max_lr", group["lr"]) for group in groups], frames=10)
