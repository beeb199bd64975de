"""Refuses arguments that are not update rules, and names the right one."""

from __future__ import annotations

import os

from torch.optim import Optimizer

from learned_opt.checks.arguments import shown
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.registry import list_rules


def check_rule(rule: object, wanted: str = "an UpdateRule", name: str = "rule") -> None:
    """Check that an argument is an update rule.

    Args:
        rule: the argument.
        wanted: what the argument may be, for the message.
        name: of the argument, for the message.

    Raises:
        ValueError: it is a name, a class, an optimizer or something else; the message says what to
            give.

    Examples:
        >>> check_rule("adam-lstm")
        Traceback (most recent call last):
        ValueError: rule must be an UpdateRule, got 'adam-lstm': give create_rule('adam-lstm')
    """
    if not isinstance(rule, UpdateRule):
        raise ValueError(f"{name} must be {wanted}, got {shown(rule)}{_advice(rule)}")


def _advice(value: object) -> str:
    """Advice on the right argument; empty if there is none."""
    if isinstance(value, (str, os.PathLike)):
        if value in list_rules():
            return f": give create_rule({value!r})"
        return (
            ": create_rule makes a rule of list_rules(), from_pretrained reads bundled weights, "
            "load_rule a file"
        )
    if isinstance(value, type) and issubclass(value, UpdateRule):
        return f": give an instance, {value.__name__}()"
    if isinstance(value, Optimizer):
        return ": the rule of a LearnedOptimizer is optimizer.rule"
    return ""
