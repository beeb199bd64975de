"""Finds parameters that share memory with another parameter or with a gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from learned_opt.backends.places import Addresses, Places, has_memory
from learned_opt.updates import PendingUpdate


class SharedMemory:
    """Finds the updates of parameters that share memory with another parameter or a gradient.

    A rule computes all updates before any is written; faster code writes one tensor while it has
    yet to read the next. Gradients may share memory with each other, since nobody writes them.
    """

    def __init__(self) -> None:
        self._lengths: Addresses
        """Bytes from the beginning to the end of parameters, and then of gradients, `[2 n]`."""

    def find(self, places: Places, *, same_form: bool) -> dict[int, str]:
        """The positions of such updates, with the reason for each.

        Tensors of other types than torch's own have no memory to look at, and do not count.

        Args:
            places: of the step.
            same_form: whether the form of all tensors is that of the last call.
        """
        updates, addresses, first = places.updates, places.addresses, places.first
        if not same_form:
            tensors = [update.parameter for update in updates]
            tensors += [update.gradient for update in updates]
            self._lengths = np.fromiter(map(_length, tensors), np.int64, len(tensors))
        starts = np.concatenate([addresses[first], addresses[first + 1]])
        return {
            position: _why_shared(position, members, updates)
            for members in _clusters(starts, self._lengths, len(updates))
            for position in members
        }


def _length(tensor: Tensor) -> int:
    """The number of bytes from where a tensor begins to its end."""
    if not has_memory(tensor) or tensor.device.type not in ("cpu", "cuda"):
        return 0
    if not tensor.numel() or tensor.is_contiguous():
        return tensor.nbytes
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


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


def _why_shared(position: int, members: set[int], updates: Sequence[PendingUpdate]) -> str:
    """With which of the members a tensor, or its gradient, shares memory."""
    others = [updates[other].name for other in sorted(members) if other != position]
    if not others:
        return "it shares memory with its gradient"
    return f"it or its gradient shares memory with {others[0]}"
