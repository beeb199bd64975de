"""Finds parameters whose step would change what another step still has to read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from learned_opt.updates import PendingUpdate


class SharedMemory:
    """Finds the updates of parameters that share memory with another parameter or a gradient.

    A rule computes all updates before any is written; faster code writes one tensor while it has
    yet to read the next. Gradients may share memory with each other, since nobody writes them.

    Call it in each step: where tensors lie as they did in the last one, it asks no more than that.
    """

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []
        self._found: dict[int, str] = {}

    def find(self, updates: Sequence[PendingUpdate]) -> dict[int, str]:
        """The positions of such updates, with the reason for each.

        Tensors of other types than torch's own have no memory to look at, and do not count.
        """
        spans = [_span(update.parameter) for update in updates]
        spans += [_span(update.gradient) for update in updates]
        if spans != self._spans:
            found = _clusters(np.array(spans, dtype=np.int64).reshape(-1, 2), len(updates))
            self._found = {
                position: _reason(position, members, updates)
                for members in found
                for position in members
            }
            self._spans = spans
        return self._found


def _span(tensor: Tensor) -> tuple[int, int]:
    """The addresses of the first byte of a tensor and of the one after its last."""
    if type(tensor) is not Tensor or tensor.device.type not in ("cpu", "cuda"):
        return 0, 0
    begin = tensor.data_ptr()
    if tensor.is_contiguous():
        return begin, begin + tensor.nbytes
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return begin, begin + (last + 1) * tensor.element_size()


def _clusters(spans: np.ndarray[tuple[int, int], np.dtype[np.int64]], count: int) -> list[set[int]]:
    """Positions of updates whose memory hangs together, a set for each stretch of memory.

    Args:
        spans: of the parameters and then of the gradients, `[2 * count, 2]`.
        count: number of updates.
    """
    filled = np.flatnonzero(spans[:, 1] > spans[:, 0])
    order = filled[np.argsort(spans[filled, 0], kind="stable")]
    if not len(order):
        return []
    begin, end = spans[order].T
    furthest = np.maximum.accumulate(end)
    number = np.cumsum(np.concatenate([[0], begin[1:] >= furthest[:-1]]))
    is_written = order < count
    several = np.bincount(number) > 1
    shared = several & (np.bincount(number, weights=is_written) > 0)
    members: dict[int, set[int]] = {}
    for place in np.flatnonzero(shared[number]):
        members.setdefault(int(number[place]), set()).add(int(order[place]) % count)
    return list(members.values())


def _reason(position: int, members: set[int], updates: Sequence[PendingUpdate]) -> str:
    others = [updates[other].name for other in sorted(members) if other != position]
    if not others:
        return "it shares memory with its gradient"
    return f"it or its gradient shares memory with {others[0]}"
