"""Reading a support set: one batch for every step, or batches one a step."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import Dataset


def batches_of(support: Any) -> Iterator[tuple[Any, Any]]:
    """Pairs of inputs and targets without end.

    Args:
        support: a pair, or a list or a loader of pairs. A loader gives a batch as a list of two
            tensors, so such a list is a pair too; a list of batches has pairs in it.

    Raises:
        ValueError: neither of these.
    """
    one = isinstance(support, list) and any(isinstance(part, Tensor) for part in support)
    if isinstance(support, tuple) or one:
        if len(support) != 2:
            raise ValueError(f"support must be (inputs, targets), got {len(support)} parts")
        return itertools.repeat((support[0], support[1]))
    if isinstance(support, Dataset):
        raise ValueError(
            f"support is a {type(support).__name__}, which gives single examples: wrap it in a "
            "torch.utils.data.DataLoader"
        )
    return _again_and_again(support)


def arguments_of(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a module: a tuple, list or dict holds several inputs."""
    if isinstance(inputs, dict):
        return (), inputs
    return (tuple(inputs) if _several(inputs) else (inputs,)), {}


def _several(value: Any) -> bool:
    # A PackedSequence is a tuple by construction, and one input.
    return isinstance(value, (tuple, list)) and not isinstance(value, PackedSequence)


def _again_and_again(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    while True:
        count = 0
        for batch in batches:
            count += 1
            if not _several(batch) or len(batch) != 2:
                parts = f" of {len(batch)} parts" if _several(batch) else ""
                raise ValueError(
                    "each batch of support must be a pair (inputs, targets), got a "
                    f"{type(batch).__name__}{parts}"
                )
            yield batch[0], batch[1]
        if not count:
            raise ValueError("support has no batches (an iterator gives them only once)")
