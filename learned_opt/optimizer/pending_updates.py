"""Collects the updates of a step: tensors with a gradient, grouped into calls of the rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learned_opt.optimizer import sharding
from learned_opt.rules.base import State
from learned_opt.updates import PendingUpdate


class Call(NamedTuple):
    """Device and options that all tensors of one call of the rule share."""

    device: torch.device
    maximize: bool
    total_steps: int | None


def pending_updates(
    groups: Sequence[dict[str, Any]],
    state_of: Callable[[Tensor, dict[str, Any]], State],
    optimizer: str,
) -> Iterator[PendingUpdate]:
    """The update of every parameter that has a gradient.

    Args:
        groups: the parameter groups.
        state_of: the state of a parameter of a group, which it may make.
        optimizer: name of the optimizer's class, for messages.

    Raises:
        RuntimeError: a gradient is sparse.
    """
    for index, group in enumerate(groups):
        names = group.get("param_names")
        for position, parameter in enumerate(group["params"]):
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.is_sparse:
                raise RuntimeError(f"{optimizer} does not support sparse gradients")
            name = names[position] if names else f"{index}.{position}"
            # Detached: torch.compile refuses pieces that are views in an autograd graph.
            value, state = parameter.detach(), state_of(parameter, group)
            if type(value) is Tensor and type(gradient) is Tensor and not value.is_complex():
                yield PendingUpdate(value, gradient, state, group, name)
                continue
            yield PendingUpdate(
                sharding.local_part(value),
                sharding.local_gradient(gradient, parameter),
                sharding.local_state(state, parameter),
                group,
                name,
                parameter if sharding.is_sharded(parameter) else None,
            )


def by_call(updates: Iterable[PendingUpdate]) -> dict[Call, list[PendingUpdate]]:
    """One call of the rule for all tensors on a device under the same options."""
    calls: dict[Call, list[PendingUpdate]] = {}
    for update in updates:
        group = update.group
        call = Call(update.parameter.device, group["maximize"], group["total_steps"])
        calls.setdefault(call, []).append(update)
    return calls
