"""The parts of tensors that faster code leaves to a coordinate-wise rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.rules.base import UpdateRule
from learned_opt.rules.coordinate_rule import CoordinateRule
from learned_opt.updates import PendingUpdate


def left_to_rule(
    rule: CoordinateRule,
    updates: Sequence[PendingUpdate],
    untouched: NDArray[np.uint8] | NDArray[np.bool_],
    doubtful: NDArray[np.uint8],
    piece: int,
) -> list[PendingUpdate]:
    """The tensors, and parts of tensors, that were left as they were.

    Args:
        rule: whose step it is.
        updates: n tensors; `step` of those that were written has advanced.
        untouched: whether all of a tensor was left, `[n]`, as 1 or true.
        doubtful: whether a piece was left, `[pieces of all tensors]`.
        piece: coordinates of a piece; the last one of a tensor may have fewer.
    """
    left = [updates[k] for k in np.flatnonzero(untouched).tolist()]
    if not doubtful.any():
        return left
    keys = rule.coordinate_state()
    counts = [-(-update.parameter.numel() // piece) for update in updates]
    parts = np.split(doubtful, np.cumsum(counts)[:-1])
    for update, whole, part in zip(updates, untouched.tolist(), parts, strict=True):
        if not whole:
            left += [_cut(update, index, keys) for index in _runs(part, piece)]
    return left


def coordinate_rule(rule: UpdateRule) -> CoordinateRule:
    """The rule, which treats coordinates alone.

    Raises:
        TypeError: it does not.
    """
    if not isinstance(rule, CoordinateRule):
        raise TypeError(f"expected a CoordinateRule, got {type(rule).__name__}")
    return rule


def _runs(doubtful: NDArray[np.uint8], piece: int) -> list[slice]:
    """The coordinates of pieces that are doubtful; pieces that follow each other together."""
    edges = np.flatnonzero(np.diff(doubtful, prepend=0, append=0))
    return [slice(piece * a, piece * b) for a, b in edges.reshape(-1, 2).tolist()]


def _cut(update: PendingUpdate, index: slice, keys: Iterable[str]) -> PendingUpdate:
    """Some coordinates of a tensor whose others have been stepped, and `step` with them.

    All are views, but `step` is as it was before.
    """
    dims = update.parameter.dim()

    def cut(value: Tensor) -> Tensor:
        if value.dim() == dims:
            return value.view(-1)[index]
        return value.movedim(-1, 0).flatten(1)[:, index].movedim(0, -1)

    state = {key: cut(update.state[key]) for key in keys}
    return replace(
        update,
        parameter=update.parameter.view(-1)[index],
        gradient=update.gradient.view(-1)[index],
        state={"step": update.state["step"] - 1, **state},
    )
