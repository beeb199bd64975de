"""The table of addresses that lets one launch step all tensors."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FIXED_COLUMNS = 3
"""Columns of the table before the addresses: see `learned_opt.backends.triton.kernels.blocks`."""

ALIGNMENT = 16
"""Bytes of the widest load of a GPU."""


Dtypes: TypeAlias = tuple[torch.dtype, torch.dtype]
"""Of a parameter and its gradient: a kernel is compiled for each pair."""


class Upload:
    """Integers on a device that are copied there only when they change, without waiting.

    A CUDA graph repeats a copy that it captured at every replay. So the copy's source must be
    pinned memory that lasts and never changes, and memory cannot be pinned during a capture: a
    buffer is kept in reserve. What a graph reads is never freed.
    """

    def __init__(self) -> None:
        self._key: Hashable = None
        self._value: Tensor | None = None
        self._reserve: Tensor | None = None
        self._sources: dict[Hashable, Tensor] = {}
        self._kept: list[Tensor] = []

    def get(
        self, key: Hashable, make: Callable[[], NDArray[np.int64]], device: torch.device
    ) -> Tensor:
        """The integers that `make` gives, `[n]`, on the device; from the last call if `key` is.

        Raises:
            RuntimeError: in the capture of a CUDA graph without a step before it.
        """
        captures = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if self._value is not None and self._key == key:
            if captures:
                self._kept.append(self._value)
            return self._value
        if captures:
            # Not for later steps: the graph fills it at a replay, not now.
            return self._captured_copy(key, make, device)
        made = torch.from_numpy(make())
        if device.type == "cuda":
            if self._reserve is None or self._reserve.numel() < made.numel():
                self._reserve = torch.empty_like(made, pin_memory=True)
            made = made.pin_memory().to(device, non_blocking=True)
        self._key, self._value = key, made
        return made

    def _captured_copy(
        self, key: Hashable, make: Callable[[], NDArray[np.int64]], device: torch.device
    ) -> Tensor:
        if key not in self._sources:
            made, reserve = torch.from_numpy(make()), self._reserve
            if reserve is None or reserve.numel() < made.numel():
                raise RuntimeError(
                    "take a step of the optimizer before the capture of a CUDA graph"
                )
            self._reserve = None
            self._sources[key] = reserve[: made.numel()].copy_(made)
        copied = self._sources[key].to(device, non_blocking=True)
        self._kept.append(copied)
        return copied


class TensorTable:
    """Sizes and addresses of tensors for kernels, and the list of blocks that they are cut into.

    Args:
        block: elements of a block.

    Attributes:
        rows: `[n * width]`, int64, on the device.
        blocks: `[count]`, int64, on the device: number of the tensor times 2^32, plus the number
            of the block within it. Empty tensors have one block, too.
        width: columns of a row.
        tensors: number of rows.
        count: number of blocks.
    """

    def __init__(self, block: int) -> None:
        self._block = block
        self._row_upload, self._block_upload = Upload(), Upload()
        self.rows: Tensor = torch.empty(0, dtype=torch.int64)
        self.blocks: Tensor = torch.empty(0, dtype=torch.int64)
        self.width = self.tensors = self.count = 0

    def point_to(self, tensors: Sequence[Sequence[Tensor]]) -> None:
        """Let row k name the tensors of `tensors[k]`, which have equal sizes and a common device.

        Raises:
            RuntimeError: in the capture of a CUDA graph without a step before it.
        """
        device = tensors[0][0].device
        sizes = tuple(row[0].numel() for row in tensors)
        counts = [max(1, -(-size // self._block)) for size in sizes]
        addresses = tuple(tensor.data_ptr() for row in tensors for tensor in row)
        self.width = FIXED_COLUMNS + len(tensors[0])
        self.tensors, self.count = len(tensors), sum(counts)
        self.rows = self._row_upload.get(
            (device, sizes, addresses), lambda: _rows(sizes, counts, addresses), device
        )
        self.blocks = self._block_upload.get((device, sizes), lambda: _blocks(counts), device)


def _rows(
    sizes: Sequence[int], counts: Sequence[int], addresses: Sequence[int]
) -> NDArray[np.int64]:
    named = np.array(addresses, dtype=np.int64).reshape(len(sizes), -1)
    aligned = (named % ALIGNMENT == 0).all(1)
    first = _first_blocks(counts)
    rows: NDArray[np.int64] = np.column_stack([sizes, aligned, first, named]).astype(np.int64)
    return rows.reshape(-1)


def _blocks(counts: Sequence[int]) -> NDArray[np.int64]:
    tensors = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    first = _first_blocks(counts)
    within = np.arange(len(tensors), dtype=np.int64) - first[tensors]
    entries: NDArray[np.int64] = (tensors << 32) + within
    return entries


def _first_blocks(counts: Sequence[int]) -> NDArray[np.int64]:
    own = np.array(counts, dtype=np.int64)
    first: NDArray[np.int64] = np.cumsum(own) - own
    return first
