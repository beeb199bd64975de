"""The base class of small character-level language models."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meta_train.tasks.data import LabelledData
from meta_train.tasks.data.in_memory import InMemoryDataset
from meta_train.tasks.data.text import VOCABULARY, read_windows
from meta_train.tasks.families.network_family import NetworkFamily
from meta_train.tasks.families.sampling import check_range, sample_int


@dataclass(frozen=True, kw_only=True)
class CharFamily(NetworkFamily):
    """Predict each next character in windows of a text. An example is one window.

    Attributes:
        path: a text file in UTF-8. The default is the text of Python's own documentation.
        length: range of the characters of a window.
        width: range of the hidden units.
    """

    path: str | None = None
    length: Sequence[int] = (12, 24)
    width: Sequence[int] = (16, 32)

    def __post_init__(self) -> None:
        """Check the settings and read the text."""
        super().__post_init__()
        check_range("width", self.width)
        _, longest = check_range("length", self.length)
        _windows(self.path, self.split, longest)

    def sample_data(self, generator: torch.Generator) -> LabelledData:
        """Draw the length of the windows."""
        return _windows(self.path, self.split, sample_int(generator, self.length))


@functools.cache
def _windows(path: str | None, split: str, length: int) -> LabelledData:
    windows = read_windows(path, split, length)
    dataset = InMemoryDataset(windows[:, :-1], windows[:, 1:], path or "text")
    return LabelledData("text", dataset, VOCABULARY, classes=True)


class NextSymbol(nn.Module):
    """An embedding, a sequence model, and a linear layer that scores the next symbol.

    Args:
        model: causal, `[B, T, width] -> [B, T, width]`.
        width: size of the embedding.
    """

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.model = model
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, symbols: Tensor) -> Tensor:
        """Score symbols `[B, T]`: `[B, VOCABULARY, T]`, the layout of `cross_entropy`."""
        scores: Tensor = self.head(self.model(self.embedding(symbols)))
        return scores.transpose(1, 2)
