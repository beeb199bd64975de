"""Refuses arguments that are not a rule, a task or settings, and names the right one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from learned_opt.checks.arguments import shown
from learned_opt.rules.rule_argument import check_rule
from meta_train.outer.settings import TrainSettings
from meta_train.tasks.family_argument import check_family


def check_arguments(rule: object, family: object, settings: object, initialization: object) -> None:
    """Check the arguments of `MetaTrainer`.

    Raises:
        ValueError: names the first argument that does not fit, and says what to give.
    """
    check_rule(rule)
    check_family(family)
    if not isinstance(settings, TrainSettings):
        advice = ": give TrainSettings(**settings)" if isinstance(settings, Mapping) else ""
        raise ValueError(f"settings must be TrainSettings, got {shown(settings)}{advice}")
    if initialization is not None and not _are_tensors(initialization):
        module = isinstance(initialization, nn.Module)
        advice = ": give dict(module.named_parameters())" if module else ""
        raise ValueError(
            f"initialization must be tensors by name, got {shown(initialization)}{advice}"
        )


def _are_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(one, Tensor) for one in value.values())
