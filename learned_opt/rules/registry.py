"""The registry of update rules. A new rule is one file in this folder and one row here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal, overload

from learned_opt.registry import create, matching_names
from learned_opt.rules.adam import Adam, RMSprop
from learned_opt.rules.adam_lstm import AdamLSTM
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.gated_lstm import GatedLSTM, MomentumGatedLSTM
from learned_opt.rules.general import General
from learned_opt.rules.lstm import CoordinateLSTM
from learned_opt.rules.orthogonal_momentum import OrthogonalMomentum
from learned_opt.rules.sgd import SGD, Momentum
from learned_opt.rules.step_size_lstm import StepSizeLSTM


@dataclass(frozen=True)
class RuleEntry:
    """A row of the registry.

    Attributes:
        cls: the class of the rule.
        description: one line for `list_rules`.
    """

    cls: type[UpdateRule]
    description: str


RULES: Mapping[str, RuleEntry] = MappingProxyType(
    {
        "sgd": RuleEntry(SGD, "Gradient descent"),
        "momentum": RuleEntry(Momentum, "Gradient descent with momentum"),
        "rmsprop": RuleEntry(RMSprop, "RMSprop"),
        "adam": RuleEntry(Adam, "Adam; AdamW with the optimizer's weight decay"),
        "orthogonal-momentum": RuleEntry(
            OrthogonalMomentum,
            "Orthogonalised momentum; needs no learning rate and no number of steps; no network",
        ),
        "general": RuleEntry(
            General, "Orthogonalised momentum with a learned factor on the step of each tensor"
        ),
        "lstm": RuleEntry(
            CoordinateLSTM, "LSTM per coordinate that writes the update (Andrychowicz et al. 2016)"
        ),
        "gated-lstm": RuleEntry(
            GatedLSTM,
            "Gradient descent as an LSTM with learned gates (Ravi & Larochelle 2017)",
        ),
        "momentum-gated-lstm": RuleEntry(
            MomentumGatedLSTM, "The same on top of a gated memory of past gradients"
        ),
        "adam-lstm": RuleEntry(AdamLSTM, "LSTM per coordinate that scales and bends Adam's step"),
        "step-size-lstm": RuleEntry(
            StepSizeLSTM, "LSTM per tensor that steers step size and mix of directions; cheap"
        ),
    }
)


@overload
def list_rules(filter: str = ..., *, with_description: Literal[False] = ...) -> list[str]: ...
@overload
def list_rules(filter: str = ..., *, with_description: Literal[True]) -> list[tuple[str, str]]: ...
def list_rules(
    filter: str = "*", *, with_description: bool = False
) -> list[str] | list[tuple[str, str]]:
    """List the names that `create_rule` takes.

    Args:
        filter: a pattern with shell wildcards, such as "*lstm".
        with_description: return (name, description) pairs.

    Examples:
        >>> list_rules("*gated*")
        ['gated-lstm', 'momentum-gated-lstm']
    """
    names = matching_names(RULES, filter)
    if with_description:
        return [(name, RULES[name].description) for name in names]
    return names


def create_rule(name: str, **settings: Any) -> UpdateRule:
    """Build a rule with fresh weights; an untrained LSTM is the start of meta-training.

    Random weights come from torch's global generator: call `torch.manual_seed` first to get the
    same ones again.

    Args:
        name: one of `list_rules()`.
        **settings: the keyword arguments of the rule's class.

    Raises:
        ValueError: an unknown name or setting, the name of bundled weights, or a value that the
            rule refuses.

    Examples:
        >>> create_rule("adam", betas=(0.9, 0.99))
        Adam(betas=(0.9, 0.99), eps=1e-08)
    """
    if isinstance(name, str) and name not in RULES and _is_bundled(name):
        raise ValueError(
            f"{name!r} is pretrained weights, not a rule: use from_pretrained({name!r})"
        )
    return create("rule", name, {key: entry.cls for key, entry in RULES.items()}, settings)


def _is_bundled(name: str) -> bool:
    """Whether a file of weights with this name ships with the package."""
    return (resources.files("learned_opt") / "pretrained" / f"{name}.safetensors").is_file()


def rule_name(rule: UpdateRule) -> str:
    """The registered name of a rule's class, or the name of an unregistered class."""
    for name, entry in RULES.items():
        if type(rule) is entry.cls:
            return name
    return type(rule).__name__
