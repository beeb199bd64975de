"""Answers about whole tensors, for rules that may hold only a part of each.

A rule that reads one number of a tensor, such as its RMS, or that transforms whole matrices, asks
`context.tensors`. In one process the parts are the tensors. Where FSDP2 or tensor parallelism
shards them, the optimizer gives an implementation that asks the other processes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from learned_opt.rules.parts.features import safe_sqrt

Transform = Callable[[list[Tensor]], list[Tensor]]
"""Maps whole tensors to whole tensors of the same shapes, each alone."""


class WholeTensors(ABC):
    """Abstract: numbers and transforms of whole tensors.

    Tensors are named by their position in the lists that the rule was given.
    """

    @abstractmethod
    def shapes(self, parts: Sequence[Tensor]) -> list[torch.Size]:
        """The shape of each whole tensor of the step, in order."""

    @abstractmethod
    def rms(self, parts: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The root mean square of each whole tensor, 0-dim; see `rms`."""

    @abstractmethod
    def norms(self, of_parts: Tensor) -> Tensor:
        """Euclidean norms of whole tensors.

        Args:
            of_parts: the norms of the parts, `[n, ...]`, a row for each tensor of the step in
                order.

        Returns:
            The norms of the whole tensors, of the same shape.
        """

    @abstractmethod
    def sums(self, of_parts: Tensor) -> Tensor:
        """Sums over whole tensors, from those over their parts; see `norms`."""

    @abstractmethod
    def idle_rows(self, parts: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The share of rows of each whole tensor that are all zero, 0-dim; see `idle_rows`."""

    @abstractmethod
    def transform(self, function: Transform, parts: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Apply a function to the whole tensors; give back the parts of its results.

        The function may be called with any split of the tensors into lists, or not at all.
        """


class LocalTensors(WholeTensors):
    """One process holds every tensor."""

    def shapes(self, parts: Sequence[Tensor]) -> list[torch.Size]:
        """See the base class."""
        return [part.shape for part in parts]

    def rms(self, parts: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """See the base class."""
        return {k: rms(part) for k, part in parts.items()}

    def norms(self, of_parts: Tensor) -> Tensor:
        """See the base class."""
        return of_parts

    def sums(self, of_parts: Tensor) -> Tensor:
        """See the base class."""
        return of_parts

    def idle_rows(self, parts: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """See the base class."""
        return {k: idle_rows(part) for k, part in parts.items()}

    def transform(self, function: Transform, parts: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """See the base class."""
        if not parts:
            return {}
        return dict(zip(parts, function(list(parts.values())), strict=True))


LOCAL = LocalTensors()


def rms(tensor: Tensor) -> Tensor:
    """The root of the mean square, 0-dim; 0 for an empty tensor; its derivative at 0 is 0."""
    if tensor.numel() == 0:
        return tensor.new_zeros(())
    # The largest first, lest squares overflow.
    largest = one_where_zero(tensor.detach().abs().amax())
    return safe_sqrt((tensor / largest).square().mean()) * largest


def idle_rows(tensor: Tensor) -> Tensor:
    """The share of rows, `tensor[k]`, that are all zero, 0-dim; 0 for an empty tensor."""
    if tensor.numel() == 0:
        return tensor.new_zeros(())
    return zero_rows(tensor).to(tensor.dtype).mean()


def zero_rows(tensor: Tensor) -> Tensor:
    """Which rows are all zero, `[rows]` bool; the elements of a vector, a scalar as one row."""
    rows = tensor.shape[0] if tensor.dim() else 1
    return (tensor.reshape(rows, math.prod(tensor.shape[1:])) == 0).all(-1)


def one_where_zero(value: Tensor) -> Tensor:
    """The value, or 1 where it is 0: a safe divisor."""
    return torch.where(value == 0, 1.0, value)
