"""Finds parameters whose step would change what another step still has to read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.updates import PendingUpdate

Addresses = NDArray[np.int64]


class SharedMemory:
    """Finds the updates of parameters that share memory with another parameter or a gradient.

    A rule computes all updates before any is written; faster code writes one tensor while it has
    yet to read the next. Gradients may share memory with each other, since nobody writes them.

    Call it in each step: where tensors lie as they did in the last one, it asks no more than that.
    """

    def __init__(self) -> None:
        self._spans: tuple[list[int], list[int]] = [], []
        self._found: dict[int, str] = {}

    def find(self, updates: Sequence[PendingUpdate]) -> dict[int, str]:
        """The positions of such updates, with the reason for each.

        Tensors of other types than torch's own have no memory to look at, and do not count.
        """
        tensors = [update.parameter for update in updates]
        tensors += [update.gradient for update in updates]
        spans = _spans(tensors)
        if spans != self._spans:
            starts, lengths = (np.array(numbers, dtype=np.int64) for numbers in spans)
            found = _clusters(starts, lengths, len(updates))
            self._found = {
                position: _reason(position, members, updates)
                for members in found
                for position in members
            }
            self._spans = spans
        return self._found


def _spans(tensors: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """The addresses where tensors on one device begin, and the numbers of bytes from there."""
    if {*map(type, tensors)} == {Tensor} and tensors[0].device.type in ("cpu", "cuda"):
        if all(map(Tensor.is_contiguous, tensors)):
            return list(map(Tensor.data_ptr, tensors)), [tensor.nbytes for tensor in tensors]
    spans = [_span(tensor) for tensor in tensors]
    return [begin for begin, _ in spans], [length for _, length in spans]


def _span(tensor: Tensor) -> tuple[int, int]:
    if type(tensor) is not Tensor or tensor.device.type not in ("cpu", "cuda"):
        return 0, 0
    if not tensor.numel() or tensor.is_contiguous():
        return tensor.data_ptr(), tensor.nbytes
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), (last + 1) * tensor.element_size()


def _clusters(starts: Addresses, lengths: Addresses, count: int) -> list[set[int]]:
    """Positions of updates whose memory hangs together, a set for each stretch of memory.

    Args:
        starts: of the parameters and then of the gradients, `[2 * count]`.
        lengths: bytes of each.
        count: number of updates.
    """
    filled = np.flatnonzero(lengths)
    order = filled[np.argsort(starts[filled], kind="stable")]
    if not len(order):
        return []
    begin = starts[order]
    furthest = np.maximum.accumulate(begin + lengths[order])
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
