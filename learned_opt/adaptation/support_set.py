"""Reads a support set: the same batch for every step, or one batch after another."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import Dataset

from learned_opt.checks.arguments import check_type


def cycle_batches(support: Any) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of inputs and targets endlessly.

    Args:
        support: a pair, or a list or a loader of pairs. A loader yields a batch as a list of two
            tensors, so a list that holds tensors is a pair; a list of batches holds pairs.

    Raises:
        ValueError: anything else.
    """
    one = isinstance(support, list) and any(isinstance(part, Tensor) for part in support)
    if isinstance(support, tuple) or one:
        if len(support) != 2:
            raise ValueError(f"support must be (inputs, targets), got {len(support)} parts")
        return itertools.repeat((mapping_as_dict(support[0]), support[1]))
    if isinstance(support, Dataset):
        raise ValueError(
            f"support is a {type(support).__name__}, which yields single examples: wrap it in a "
            "torch.utils.data.DataLoader"
        )
    return _cycle(support)


def mapping_as_dict(value: Any) -> Any:
    """A mapping as a plain dict, whose tensors torch finds; anything else as it is.

    Tokenizers of transformers return a mapping that is no dict (`BatchEncoding`).
    """
    return dict(value) if isinstance(value, Mapping) else value


def module_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments for a module: a tuple, list or mapping holds several."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if _is_sequence(inputs) else (inputs,)), {}


def _is_sequence(value: Any) -> bool:
    # A PackedSequence is a tuple, but one input.
    return isinstance(value, (tuple, list)) and not isinstance(value, PackedSequence)


def _cycle(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    check_type("support", batches, Iterable, "a pair (inputs, targets) or a list of such batches")
    while True:
        count = 0
        for batch in batches:
            count += 1
            if not _is_sequence(batch) or len(batch) != 2:
                parts = f" of {len(batch)} parts" if _is_sequence(batch) else ""
                raise ValueError(
                    "each batch of support must be a pair (inputs, targets), got a "
                    f"{type(batch).__name__}{parts}"
                )
            yield mapping_as_dict(batch[0]), batch[1]
        if not count:
            raise ValueError("support has no batches (an iterator yields them only once)")
