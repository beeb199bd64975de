"""Update rules: the contract, one file for each rule, and the registry of their names."""

from learned_opt.rules.base import Context, Gates, State, UpdateRule
from learned_opt.rules.coordinate_rule import CoordinateRule
from learned_opt.rules.registry import RULES, RuleEntry, create_rule, list_rules, rule_name

__all__ = [
    "RULES",
    "Context",
    "CoordinateRule",
    "Gates",
    "RuleEntry",
    "State",
    "UpdateRule",
    "create_rule",
    "list_rules",
    "rule_name",
]
