"""Where the tensors of a step lie in memory, gathered once for all who ask."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.updates import PendingUpdate

Addresses: TypeAlias = NDArray[np.int64]

Form: TypeAlias = tuple[Any, ...]
"""The keys of the states, and the dtypes, shapes and strides of all tensors."""

_dtype, _shape = attrgetter("dtype"), attrgetter("shape")


class Places:
    """Where the tensors of a step lie: of each update the parameter, the gradient and the state.

    Whoever keeps something of a step compares the places with those of the last one. Nothing but
    numbers has changed if both `form` and `addresses` are equal.

    Attributes:
        updates: of the step.
        keys: of the state of each.
        tensors: of the first update the parameter, the gradient and the state; then of the next.
        addresses: where each begins; 0 for sparse ones, and for other types than torch's own.
        first: the place of each update's parameter among them, `[n]`.
    """

    def __init__(self, updates: Sequence[PendingUpdate]) -> None:
        self.updates = updates
        self.keys = [tuple(update.state) for update in updates]
        self.tensors: list[Any] = []
        add = self.tensors.extend
        for update in updates:
            add((update.parameter, update.gradient, *update.state.values()))
        self.addresses = _addresses(self.tensors)
        counts = np.array([2 + len(keys) for keys in self.keys], dtype=np.int64)
        self.first = np.cumsum(counts) - counts

    def read_form(self) -> Form | None:
        """The form of all tensors, to compare with the last step's; None if a tensor is not plain.

        Plain are torch's own dense tensors that have memory of their own, which holds their values.
        """
        if not self.addresses.all() or any(update.sharded is not None for update in self.updates):
            return None
        if any(map(Tensor.is_neg, self.tensors)):
            return None
        tensors = self.tensors
        return (
            self.keys,
            list(map(_dtype, tensors)),
            list(map(_shape, tensors)),
            list(map(Tensor.stride, tensors)),
        )

    def table(self, names: Sequence[str]) -> Addresses:
        """Addresses of parameters, gradients and the named state, `[2 + len(names), n]`, for C.

        Args:
            names: keys of the states.
        """
        first = self.keys[0]
        if self.keys.count(first) == len(self.keys):
            places = [0, 1, *(2 + first.index(name) for name in names)]
            of_update = self.addresses.reshape(len(self.keys), -1)
            return np.ascontiguousarray(of_update[:, places].T)
        rows = [[u.parameter, u.gradient, *(u.state[name] for name in names)] for u in self.updates]
        columns = zip(*rows, strict=True)
        return _addresses(list(chain.from_iterable(columns))).reshape(2 + len(names), -1)

    def take(self, positions: Sequence[int]) -> Places:
        """The places of some of the updates."""
        return Places([self.updates[position] for position in positions])


def _addresses(tensors: Sequence[Any]) -> Addresses:
    if {*map(type, tensors)} == {Tensor}:
        with suppress(RuntimeError):  # of a sparse tensor; to ask each first takes as long again
            return np.fromiter(map(Tensor.data_ptr, tensors), np.int64, len(tensors))
    found = (tensor.data_ptr() if has_memory(tensor) else 0 for tensor in tensors)
    return np.fromiter(found, np.int64, len(tensors))


def has_memory(tensor: Any) -> bool:
    """Whether it is one of torch's own dense tensors."""
    return type(tensor) is Tensor and tensor.layout is torch.strided
