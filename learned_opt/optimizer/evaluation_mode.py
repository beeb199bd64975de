"""Evaluate at a running average of the weights: swap it in for evaluation, and out for training.

As in Schedule-Free (Defazio et al. 2024, arXiv 2405.15682): call `optimizer.eval()` before you
evaluate or save the model, and `optimizer.train()` before training goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from learned_opt.optimizer import sharding
from learned_opt.rules.base import UpdateRule

MODE = "train_mode"
"""The option of every parameter group that says whether its parameters are those of training."""

TRAINING_VALUE = "training_value"
"""Where the state of a parameter keeps the value to train on while it is evaluated."""


def use_averages(
    groups: Iterable[dict[str, Any]], states: Mapping[Tensor, Any], rule: UpdateRule
) -> None:
    """Put each parameter's average in its place, and keep the value to train on.

    Groups with a planned number of steps keep their parameters, which end where they should be.
    """
    for group in groups:
        if group[MODE] and group["total_steps"] is None:
            for parameter in group["params"]:
                state = states.get(parameter)
                if state:
                    _use_average(parameter, state, rule)
        group[MODE] = False


def _use_average(parameter: Tensor, state: dict[str, Tensor], rule: UpdateRule) -> None:
    value = sharding.local_part(parameter.detach())
    own = {key: state[key] for key in rule.init_state(torch.empty_like(value, device="meta"))}
    average, new = rule.evaluation_point(value, sharding.local_state(own, parameter))
    state[TRAINING_VALUE] = parameter.detach().clone()
    for key, tensor in sharding.local_state(own, parameter).items():
        tensor.copy_(new[key])
    value.copy_(average)


def use_training_values(groups: Iterable[dict[str, Any]], states: Mapping[Tensor, Any]) -> None:
    """Put the values to train on back; bit for bit as they were."""
    for group in groups:
        for parameter in group["params"]:
            kept = states.get(parameter, {}).pop(TRAINING_VALUE, None)
            if kept is not None:
                parameter.detach().copy_(kept)
        group[MODE] = True


def check_training(groups: Iterable[Mapping[str, Any]]) -> None:
    """Refuse to step from an average.

    Raises:
        RuntimeError: the optimizer is in evaluation mode.
    """
    if not all(group[MODE] for group in groups):
        raise RuntimeError(
            "the optimizer is in evaluation mode: its parameters are averages, which are not to be "
            "trained. Call optimizer.train() before step()"
        )
