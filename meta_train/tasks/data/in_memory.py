"""Examples as rows of tensors, checked once: what `ModuleTask` draws batches from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset

MAX_BYTES = 4 * 2**30
"""More than this of a data set or a loader is refused: it is read into memory whole."""


class InMemoryDataset:
    """Inputs and targets, row by row.

    Args:
        inputs: `[M, ...]`, or a tuple or dict of such tensors.
        targets: `[M, ...]`, or a tuple or dict of such tensors.
        name: what messages call the data.

    Raises:
        ValueError: lengths differ, there are no rows, or a value is NaN or infinite.
    """

    def __init__(self, inputs: Any, targets: Any, name: str = "data") -> None:
        sizes = [_length(tree, part, name) for part, tree in _parts(inputs, targets)]
        if sizes[0] != sizes[1] or sizes[0] == 0:
            raise ValueError(
                f"{name} needs as many targets as inputs, and some; got {sizes[0]} inputs, "
                f"{sizes[1]} targets"
            )
        for part, tree in _parts(inputs, targets):
            _refuse_what_is_not_finite(tree, part, name)
        self.inputs = inputs
        self.targets = targets
        self._on_device: dict[torch.device, InMemoryDataset] = {}

    def __len__(self) -> int:
        """How many."""
        return len(pytree.tree_leaves(self.inputs)[0])

    def on(self, device: torch.device) -> InMemoryDataset:
        """The same rows on a device; copied there once."""
        if device not in self._on_device:
            inputs, targets = pytree.tree_map(lambda t: t.to(device), (self.inputs, self.targets))
            self._on_device[device] = _unchecked(inputs, targets)
        return self._on_device[device]

    def take(self, index: Tensor | None) -> tuple[Any, Any]:
        """Inputs and targets at `index` `[n]`; all of them for None."""
        if index is None:
            return self.inputs, self.targets
        taken = pytree.tree_map(lambda t: t[index.to(t.device)], (self.inputs, self.targets))
        return taken[0], taken[1]

    def __getstate__(self) -> dict[str, Any]:
        """What pickle writes: not the copies on devices."""
        return {**self.__dict__, "_on_device": {}}


Data: TypeAlias = InMemoryDataset | Sequence[Any] | Dataset[Any] | DataLoader[Any]
"""Rows; a pair (inputs, targets); a map-style data set of such pairs; a loader of such batches."""


def as_rows(data: Data, name: str = "data") -> InMemoryDataset:
    """Read data into memory and check it.

    Args:
        data: see `Data`. A loader is gone through once, under a seed of its own.
        name: what messages call the data.

    Raises:
        ValueError: not pairs, too much to hold in memory, or see `InMemoryDataset`.
    """
    if isinstance(data, InMemoryDataset):
        return data
    if isinstance(data, DataLoader):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # the order of rows is no part of the task
            return InMemoryDataset(*_joined(data, name, torch.cat), name)
    if isinstance(data, Dataset):
        if not hasattr(data, "__len__"):
            raise ValueError(f"{name} must be a data set with a length, got {type(data).__name__}")
        # By index: the iteration of a data set need not end.
        items = (data[k] for k in range(len(data)))
        return InMemoryDataset(*_joined(items, name, _stack), name)
    return InMemoryDataset(*_pair(data, name), name)


def _parts(inputs: Any, targets: Any) -> tuple[tuple[str, Any], tuple[str, Any]]:
    return ("inputs", inputs), ("targets", targets)


def _unchecked(inputs: Any, targets: Any) -> InMemoryDataset:
    rows = InMemoryDataset.__new__(InMemoryDataset)
    rows.inputs, rows.targets, rows._on_device = inputs, targets, {}
    return rows


def _length(tree: Any, part: str, name: str) -> int:
    leaves = pytree.tree_leaves(tree)
    wrong = [leaf for leaf in leaves if not isinstance(leaf, Tensor) or leaf.dim() == 0]
    if wrong or not leaves:
        got = type(wrong[0]).__name__ if wrong else "nothing"
        raise ValueError(f"{part} of {name} must be tensors with a row per example, got {got}")
    sizes = {len(leaf) for leaf in leaves}
    if len(sizes) > 1:
        raise ValueError(f"{part} of {name} differ in length: {sorted(sizes)}")
    return sizes.pop()


def _refuse_what_is_not_finite(tree: Any, part: str, name: str) -> None:
    for leaf in pytree.tree_leaves(tree):
        if leaf.is_floating_point():
            # The sum is not finite if a value is not, and it needs no memory.
            if math.isfinite(float(leaf.sum(dtype=torch.float64))):
                continue
            bad = (~leaf.isfinite()).flatten(1).any(1) if leaf.dim() > 1 else ~leaf.isfinite()
            raise ValueError(
                f"{part} of {name} hold NaN or infinity in {int(bad.sum())} of {len(leaf)} rows, "
                f"first in row {int(bad.nonzero()[0, 0])}"
            )


def _pair(item: Any, name: str) -> tuple[Any, Any]:
    if not isinstance(item, Sequence) or isinstance(item, str) or len(item) != 2:
        got = f"{len(item)} things" if isinstance(item, (tuple, list)) else type(item).__name__
        raise ValueError(f"{name} must be pairs (inputs, targets), got {got}")
    return item[0], item[1]


def _stack(leaves: Sequence[Any]) -> Tensor:
    return torch.stack([torch.as_tensor(leaf) for leaf in leaves])


def _joined(items: Iterable[Any], name: str, join: Any) -> tuple[Any, Any]:
    kept, held = [], 0
    for item in items:
        kept.append(_pair(item, name))
        held += sum(torch.as_tensor(x).nbytes for x in pytree.tree_leaves(kept[-1]))
        if held > MAX_BYTES:
            raise ValueError(
                f"{name} holds more than {MAX_BYTES / 2**30:g} GiB, and is read into memory whole: "
                "give a part of it (torch.utils.data.Subset)"
            )
    if not kept:
        return torch.empty(0), torch.empty(0)
    try:
        joined = pytree.tree_map(lambda *leaves: join(leaves), *kept)
    except (RuntimeError, ValueError, TypeError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"items of {name} do not fit together: {line}") from None
    return joined[0], joined[1]
