"""Families of small character-level language models."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meta_train.tasks.data import LabelledData
from meta_train.tasks.data.in_memory import InMemoryDataset
from meta_train.tasks.data.text import VOCABULARY, read_windows
from meta_train.tasks.draws import check_bounds, draw_int
from meta_train.tasks.network_family import NetworkFamily


@dataclass(frozen=True, kw_only=True)
class CharFamily(NetworkFamily):
    """Predict every next character of windows of a text; a row is a window.

    Attributes:
        path: a text file in UTF-8; by default Python's own documentation.
        length: least and most characters of a window.
        width: least and most hidden units.
    """

    path: str | None = None
    length: Sequence[int] = (12, 24)
    width: Sequence[int] = (16, 32)

    def __post_init__(self) -> None:
        """Refuse what cannot work, and read the text."""
        super().__post_init__()
        check_bounds("width", self.width)
        _, longest = check_bounds("length", self.length)
        _windows(self.path, self.split, longest)

    def draw_data(self, generator: torch.Generator) -> LabelledData:
        """Windows of a random length."""
        return _windows(self.path, self.split, draw_int(generator, self.length))


@functools.cache
def _windows(path: str | None, split: str, length: int) -> LabelledData:
    windows = read_windows(path, split, length)
    rows = InMemoryDataset(windows[:, :-1], windows[:, 1:], path or "text")
    return LabelledData("text", rows, VOCABULARY, classes=True)


class NextSymbol(nn.Module):
    """Embeds symbols, runs a model over them, and scores every symbol as the next one.

    Args:
        model: `[B, T, width] -> [B, T, width]`, causal.
        width: of the embedding.
    """

    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.model = model
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, symbols: Tensor) -> Tensor:
        """Scores `[B, symbols, T]`, as cross-entropy takes them, for symbols `[B, T]`."""
        scores: Tensor = self.head(self.model(self.embedding(symbols)))
        return scores.transpose(1, 2)
