"""Refuses tensors that have more elements than memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from learned_opt.backends.places import Places, has_memory
from learned_opt.updates import PendingUpdate


class LostMemory:
    """Refuses tensors that have more elements than memory, before a step writes anything.

    Resizing a storage leaves such tensors behind. torch does not check for them: reading one can
    end the process, and writing one spoils other memory.

    Call it in each step: it looks only at the tensors that lie elsewhere than in the last one. So a
    shorter storage at the same address goes unseen: reading the sizes of all storages in each step
    costs too much where a step in C has many small tensors.
    """

    def __init__(self) -> None:
        self._addresses = np.empty(0, dtype=np.int64)

    def check(self, places: Places) -> None:
        """Check parameters, gradients and state.

        Tensors of other types than torch's own have no memory to look at, and do not count; nor
        do those on other devices than the CPU and CUDA's.

        Args:
            places: of parameters on one device.

        Raises:
            RuntimeError: a storage was freed or cut short, or several elements of a parameter share
                one place in memory, as after `expand` and some calls of `as_strided`. A step has no
                one meaning there: torch's optimizers add up such updates in some of their code and
                keep one of them in other.
        """
        updates = places.updates
        if updates[0].parameter.device.type not in ("cpu", "cuda"):
            return
        for update in updates:
            if _overlaps_itself(update.parameter):
                raise RuntimeError(
                    f"parameter {update.name} cannot be written, since several of its elements "
                    "share one place in memory: clone it"
                )
        addresses, known = places.addresses, self._addresses
        if len(known) == len(addresses):
            moved = np.flatnonzero(addresses != known).tolist()
        else:
            moved = list(range(len(addresses)))
        for position in moved:
            tensor = places.tensors[position]
            if _is_lost(tensor):
                raise RuntimeError(
                    f"{_describe(tensor, updates)} has more elements than its memory holds: its "
                    "storage was freed or cut short"
                )
        self._addresses = addresses


def _is_lost(tensor: Any) -> bool:
    """Whether a tensor reaches beyond the end of its storage."""
    count: int = tensor.numel() if has_memory(tensor) else 0
    if not count:
        return False
    if not tensor.is_contiguous():
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        count = 1 + sum((size - 1) * step for size, step in steps)
    end = (tensor.storage_offset() + count) * tensor.element_size()
    held: int = tensor.untyped_storage().nbytes()
    return end > held and not tensor._is_zerotensor()


def _overlaps_itself(tensor: Tensor) -> bool:
    """Whether elements share a place in memory."""
    if not has_memory(tensor) or tensor.is_contiguous():
        return False
    reached = 0  # how far the dimensions with smaller strides reach from the first element
    shape, strides = tensor.shape, tensor.stride()
    for step, size in sorted(zip(strides, shape, strict=True)):
        if size > 1:
            if step <= reached:
                # Strides of 3 and 2 may still hit other places, as in shape [2, 3].
                return step == 0 or _places(shape, strides) < tensor.numel()
            reached += (size - 1) * step
    return False


def _places(shape: Sequence[int], strides: Sequence[int]) -> int:
    """The number of different places of the elements."""
    found = np.zeros(1, dtype=np.int64)
    for size, step in zip(shape, strides, strict=True):
        found = np.unique(np.add.outer(found, step * np.arange(size)))
    return len(found)


def _describe(tensor: Tensor, updates: Sequence[PendingUpdate]) -> str:
    for update in updates:
        parts = {"": update.parameter, "the gradient of ": update.gradient}
        parts |= {f"the state {key!r} of ": value for key, value in update.state.items()}
        for part, value in parts.items():
            if value is tensor:
                return f"{part}parameter {update.name}"
    raise ValueError("the tensor is of none of the updates")
