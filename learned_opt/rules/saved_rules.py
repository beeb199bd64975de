"""Builds a rule from the facts in a file, after checks that cost little memory and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from learned_opt.real_tensors import real_tensors
from learned_opt.registry import look_up
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.registry import RuleEntry

MAX_LIST = 64
"""Longest list in the settings of a rule with fewer weights than that."""

LARGEST = 2**63
"""Whole numbers in the settings of a rule are below it."""

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}
"""The dtypes of rules by their names in a file."""


def build_saved_rule(
    create: Callable[..., UpdateRule],
    entries: Mapping[str, RuleEntry],
    name: str,
    settings: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    dtype: str,
) -> UpdateRule:
    """Build a rule on the CPU, in evaluation mode. The caller's random numbers are not drawn.

    Args:
        create: builds a rule from its name and settings.
        entries: the registry of `create`.
        name: a name of the registry.
        settings: as JSON holds them.
        weights: by name; they decide how large the rule may be.
        dtype: a key of `DTYPES`.

    Raises:
        ValueError: settings do not fit the rule, or weights do not fit the settings.
    """
    look_up("dtype", dtype, DTYPES)
    look_up("rule", name, entries)
    _check_settings(settings, weights)
    with real_tensors(), torch.random.fork_rng(devices=[]):
        with torch.device("meta"):  # shapes without memory
            _check_weights(create(name, **settings).state_dict(), weights)
        with torch.device("cpu"):
            rule = create(name, **settings)
            rule.to(DTYPES[dtype])
            rule.load_state_dict(dict(weights))
    return rule.eval()


def _check_settings(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Refuse settings that are too large, before `create` checks names and types."""
    if not isinstance(settings, dict):
        raise ValueError("the settings of the rule are no mapping")
    # A list names layers or tensors, which have weights, or rows of them.
    longest = max([MAX_LIST, len(weights), *(len(w) for w in weights.values() if w.dim())])
    for key, value in settings.items():
        if isinstance(value, list) and len(value) > longest:
            raise ValueError(
                f"setting {key} of the rule has {len(value)} entries for {len(weights)} weights"
            )
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) >= LARGEST:
                raise ValueError(f"setting {key} of the rule cannot be {str(number)[:80]}")


def _check_weights(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    if missing := sorted(expected.keys() - weights.keys()):
        raise ValueError(f"it lacks the weight {missing[0]}")
    if extra := sorted(weights.keys() - expected.keys()):
        raise ValueError(f"the rule has no weight {extra[0][:80]!r}")
    for key, value in weights.items():
        shape = expected[key].shape
        if value.shape != shape:
            raise ValueError(
                f"weight {key} is {list(value.shape)}, its settings make {list(shape)}"
            )
        if value.is_floating_point() != expected[key].is_floating_point():
            raise ValueError(f"weight {key} has the dtype {value.dtype}")
