"""Update rules by name. A new rule is one file beside this one and one row here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from learned_opt.registry import create
from learned_opt.rules.adam_lstm import AdamLSTM
from learned_opt.rules.adaptive import Adam, RMSprop
from learned_opt.rules.base import Context, CoordinateRule, Gates, State, UpdateRule
from learned_opt.rules.coordinate_lstm import CoordinateLSTM
from learned_opt.rules.gated import GatedLSTM, MomentumGatedLSTM
from learned_opt.rules.orthogonal_momentum import OrthogonalMomentum
from learned_opt.rules.sgd import SGD, Momentum
from learned_opt.rules.step_size_lstm import StepSizeLSTM

__all__ = [
    "Context",
    "CoordinateRule",
    "Gates",
    "State",
    "UpdateRule",
    "create_rule",
    "list_rules",
    "rule_name",
]

RULES: Mapping[str, type[UpdateRule]] = MappingProxyType(
    {
        "sgd": SGD,
        "momentum": Momentum,
        "rmsprop": RMSprop,
        "adam": Adam,
        "orthogonal-momentum": OrthogonalMomentum,
        "lstm": CoordinateLSTM,
        "gated-lstm": GatedLSTM,
        "momentum-gated-lstm": MomentumGatedLSTM,
        "adam-lstm": AdamLSTM,
        "step-size-lstm": StepSizeLSTM,
    }
)


def list_rules() -> list[str]:
    """Names of all rules."""
    return list(RULES)


def create_rule(name: str, **settings: Any) -> UpdateRule:
    """Build a rule with fresh weights.

    Args:
        name: one of `list_rules()`.
        **settings: the keyword arguments of the rule's class.

    Raises:
        ValueError: an unknown name or setting, or a value that the rule refuses.
    """
    return create("rule", name, RULES, settings)


def rule_name(rule: UpdateRule) -> str:
    """The registered name of a rule's class, or the class's own name where it is a user's."""
    for name, cls in RULES.items():
        if type(rule) is cls:
            return name
    return type(rule).__name__
