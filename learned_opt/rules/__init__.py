"""Update rules, one file each.

`base.py` is the contract of a rule, `coordinate_rule.py` and `steered_rule.py` are base classes,
and `registry.py` lists the rules by name. `parts/` holds what rules are built from.
"""

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
