"""Tasks on Python's own documentation: characters, and words that stand near each other."""

from __future__ import annotations

import functools
import re
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meta_train.evaluation.benchmark.tasks import models
from meta_train.evaluation.benchmark.workload import FIXED, Batch, Workload, cross_entropy
from meta_train.tasks.data.text import SYMBOLS, VOCABULARY, read_windows

WORDS = 1500
"""Most frequent words that the skip-gram model knows."""

NEAR = 2
"""Most words between a word and one that it predicts, plus one."""


@functools.cache
def _windows(split: str, length: int) -> Tensor:
    """Windows `[M, length + 1]` in random order."""
    windows = read_windows(None, split, length)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    return windows[order].contiguous()


@functools.cache
def _overlapping(split: str, length: int) -> Tensor:
    """Windows `[M, length + 1]` that begin at every third character, in random order."""
    windows = read_windows(None, split, 1)[:, 0].unfold(0, length + 1, 3)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    return windows[order].contiguous()


def _every_symbol(
    model: nn.Module, length: int, *, tied: bool = False, measured: int = FIXED
) -> Workload:
    train, test = (_windows(split, length) for split in ("train", "test"))
    return Workload(
        model,
        (train[:, :-1], train[:, 1:]),
        (test[:256, :-1], test[:256, 1:]),
        cross_entropy,
        cross_entropy,
        tied,
        measured,
    )


def char_gru() -> Workload:
    """A GRU of 64 units on windows of 32 characters."""
    return _every_symbol(models.CharGRU(VOCABULARY, 24, 64), 32)


def char_gpt() -> Workload:
    """A GPT-2-like model of width 128 with six blocks, 1.2 million parameters."""
    return _every_symbol(models.GPT(VOCABULARY, 32, 128, 6, 4), 32, tied=True, measured=256)


def char_mlp() -> Workload:
    """A perceptron 256-2048-256 on the 16 characters before, 1.1 million parameters."""
    train, test = (_overlapping(split, 16) for split in ("train", "test"))
    model = models.CharMLP(VOCABULARY, 16, 16, (2048, 256))
    return Workload(
        model,
        (train[:, :-1], train[:, -1]),
        (test[:1024, :-1], test[:1024, -1]),
        cross_entropy,
        cross_entropy,
    )


@functools.cache
def _pairs() -> Tensor:
    """Pairs of frequent words that stand near each other, `[M, 2]`, in random order."""
    symbols = read_windows(None, "train", 1)[:, 0]
    alphabet = SYMBOLS + " "
    words = re.findall(r"[a-z]{2,}", "".join(alphabet[k] for k in symbols.tolist()).lower())
    known = {word: k for k, (word, _) in enumerate(Counter(words).most_common(WORDS))}
    codes = torch.tensor([known.get(word, -1) for word in words])
    pairs = [torch.stack([codes[:-gap], codes[gap:]], 1) for gap in range(1, NEAR + 1)]
    found = torch.cat(pairs)
    found = found[(found >= 0).all(1)]
    return found[torch.randperm(len(found), generator=torch.Generator().manual_seed(0))]


class SkipGram(nn.Module):
    """Which word stands nearby: a product of two embeddings (Mikolov et al. 2013)."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.words, self.near = nn.Embedding(words, width), nn.Embedding(words, width)

    def forward(self, words: Tensor) -> Tensor:
        """`[B]` to logits `[B, words]`."""
        return F.linear(self.words(words), self.near.weight / self.words.embedding_dim**0.5)


def skip_gram() -> Workload:
    """Skip-gram with a softmax over 1500 words, embeddings of 32."""
    pairs = _pairs()
    train: Batch = (pairs[:-1024, 0], pairs[:-1024, 1])
    test: Batch = (pairs[-1024:, 0], pairs[-1024:, 1])
    return Workload(SkipGram(WORDS, 32), train, test, cross_entropy, cross_entropy, tied=True)
