"""Data in memory, checked once. `ModuleTask` draws its batches from it."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from learned_opt.adaptation.support_set import mapping_as_dict

MAX_DATASET_BYTES = 4 * 2**30
"""Largest data set or loader that is read into memory, in bytes (4 GiB)."""


class InMemoryDataset:
    """Inputs and targets, one row per example.

    Args:
        inputs: `[M, ...]`, or a tuple or mapping of such tensors.
        targets: `[M, ...]`, or a tuple or mapping of such tensors.
        name: name of the data in error messages.

    Raises:
        ValueError: lengths differ, there are no rows, or a value is NaN or infinite.
    """

    def __init__(self, inputs: Any, targets: Any, name: str = "data") -> None:
        inputs, targets = mapping_as_dict(inputs), mapping_as_dict(targets)
        sizes = [_length(tree, part, name) for part, tree in _parts(inputs, targets)]
        if sizes[0] != sizes[1] or sizes[0] == 0:
            raise ValueError(
                f"{name} needs as many targets as inputs, and some; got {sizes[0]} inputs, "
                f"{sizes[1]} targets"
            )
        for part, tree in _parts(inputs, targets):
            _check_finite(tree, part, name)
        self.inputs = inputs
        self.targets = targets
        self._on_device: dict[torch.device, InMemoryDataset] = {}

    def __len__(self) -> int:
        """Number of examples, M."""
        return len(pytree.tree_leaves(self.inputs)[0])

    def on(self, device: torch.device) -> InMemoryDataset:
        """The data on a device. It is copied there once."""
        if device not in self._on_device:
            moved = copy.copy(self)  # not checked again
            moved.inputs, moved.targets = pytree.tree_map(
                lambda t: t.to(device), (self.inputs, self.targets)
            )
            moved._on_device = {}
            self._on_device[device] = moved
        return self._on_device[device]

    def take(self, index: Tensor | None) -> tuple[Any, Any]:
        """Inputs and targets at the indices, `[*index, ...]`; all of them for None."""
        if index is None:
            return self.inputs, self.targets
        flat = index.flatten()
        # Four times as fast as indexing.
        taken = pytree.tree_map(
            lambda t: t.index_select(0, flat.to(t.device)).unflatten(0, index.shape),
            (self.inputs, self.targets),
        )
        return taken[0], taken[1]

    def __getstate__(self) -> dict[str, Any]:
        """Leave copies on other devices out of a pickle."""
        return {**self.__dict__, "_on_device": {}}


@dataclass(frozen=True)
class RandomRows:
    """Draws batches of random rows, with replacement.

    Calling it draws a batch. `row_numbers` draws the same rows, so that the batches of many runs
    can be taken from the data at once.

    Attributes:
        dataset: the data.
        batch_size: rows in a batch.
        among: indices of the rows to draw from, `[n]`; None for all.
    """

    dataset: InMemoryDataset
    batch_size: int
    among: Tensor | None = None

    def __call__(self, generator: torch.Generator) -> tuple[Any, Any]:
        """Draw inputs and targets, `[batch_size, ...]`."""
        return self.dataset.take(self.row_numbers(generator))

    def row_numbers(self, generator: torch.Generator) -> Tensor:
        """Draw the indices of a batch, `[batch_size]`."""
        index = self.places(generator)
        return index if self.among is None else self.among.index_select(0, index)

    def places(self, generator: torch.Generator) -> Tensor:
        """Draw where the rows of a batch stand in `among`, or in the data, `[batch_size]`."""
        count = len(self.dataset if self.among is None else self.among)
        return torch.randint(count, (self.batch_size,), generator=generator)


Data: TypeAlias = InMemoryDataset | Sequence[Any] | Dataset[Any] | DataLoader[Any]
"""One of: a data set in memory; a pair (inputs, targets); a map-style data set of such pairs; a
loader of such batches."""


def as_dataset(data: Data, name: str = "data") -> InMemoryDataset:
    """Read data into memory and check it.

    Args:
        data: see `Data`. A loader or data set is read once, with fixed seeds of torch, NumPy and
            Python. Generators of a loader and of torch's samplers begin anew from their own seeds,
            and are restored. A sampler of one's own seeds itself.
        name: name of the data in error messages.

    Raises:
        ValueError: the items are not pairs, or exceed `MAX_DATASET_BYTES`; or see
            `InMemoryDataset`.
    """
    if isinstance(data, InMemoryDataset):
        return data
    if isinstance(data, DataLoader):
        with _fixed_randomness(_generators(data)):
            return InMemoryDataset(*_joined(data, name, torch.cat), name)
    if isinstance(data, Dataset):
        if not isinstance(data, Sized):
            raise ValueError(f"{name} must be a data set with a length, got {type(data).__name__}")
        # By index: iterating over a data set need not end.
        items = (data[k] for k in range(len(data)))
        with _fixed_randomness([]):
            return InMemoryDataset(*_joined(items, name, _stack), name)
    return InMemoryDataset(*_pair(data, name), name)


@contextmanager
def _fixed_randomness(generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Seed what a data set or a loader draws from, and restore it at the end.

    The generators begin anew from their own seeds, whatever they have drawn: the second reading of
    a loader is equal to the first.
    """
    states = [generator.get_state() for generator in generators]
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        for generator in generators:
            generator.manual_seed(generator.initial_seed())
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def _generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    """The generators of a loader and of torch's samplers in it, each once."""
    found = [loader.generator]
    samplers: list[object] = [loader.sampler, loader.batch_sampler]
    while samplers:
        sampler = samplers.pop()
        if isinstance(sampler, BatchSampler):
            samplers.append(sampler.sampler)
        elif isinstance(sampler, (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)):
            found.append(sampler.generator)
    return list({id(generator): generator for generator in found if generator is not None}.values())


def _parts(inputs: Any, targets: Any) -> tuple[tuple[str, Any], tuple[str, Any]]:
    return ("inputs", inputs), ("targets", targets)


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


def _check_finite(tree: Any, part: str, name: str) -> None:
    for leaf in pytree.tree_leaves(tree):
        if leaf.is_floating_point():
            # The sum is not finite if any value is not. It needs no extra memory.
            if math.isfinite(float(leaf.sum(dtype=torch.float64))):
                continue
            bad = (~leaf.isfinite()).flatten(1).any(1) if leaf.dim() > 1 else ~leaf.isfinite()
            if not bad.any():
                continue  # the sum alone is too large
            raise ValueError(
                f"{part} of {name} hold NaN or infinity in {int(bad.sum())} of {len(leaf)} rows, "
                f"first in row {int(bad.nonzero()[0, 0])}"
            )


def _pair(item: Any, name: str) -> tuple[Any, Any]:
    if not isinstance(item, Sequence) or isinstance(item, str) or len(item) != 2:
        got = f"{len(item)} items" if isinstance(item, (tuple, list)) else type(item).__name__
        raise ValueError(f"{name} must be pairs (inputs, targets), got {got}")
    return mapping_as_dict(item[0]), mapping_as_dict(item[1])


def _stack(leaves: Sequence[Any]) -> Tensor:
    return torch.stack([torch.as_tensor(leaf) for leaf in leaves])


def _nbytes(leaf: Any, name: str) -> int:
    try:
        return torch.as_tensor(leaf).nbytes
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(
            f"items of {name} must hold tensors, arrays or numbers, got {type(leaf).__name__}"
        ) from None


def _joined(items: Iterable[Any], name: str, join: Any) -> tuple[Any, Any]:
    kept, held = [], 0
    for item in items:
        kept.append(_pair(item, name))
        held += sum(_nbytes(leaf, name) for leaf in pytree.tree_leaves(kept[-1]))
        if held > MAX_DATASET_BYTES:
            raise ValueError(
                f"{name} exceeds {MAX_DATASET_BYTES / 2**30:g} GiB, the most that is read into "
                "memory: give a part of it (torch.utils.data.Subset)"
            )
    if not kept:
        return torch.empty(0), torch.empty(0)
    try:
        joined = pytree.tree_map(lambda *leaves: join(leaves), *kept)
    except (RuntimeError, ValueError, TypeError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"items of {name} do not fit together: {line}") from None
    return joined[0], joined[1]
