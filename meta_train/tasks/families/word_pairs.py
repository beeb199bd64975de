"""Embeddings of the words of a made-up language, by negative sampling (Mikolov et al. 2013).

Most rows of an embedding get no gradient in a step, and the rare ones get one only now and then:
the case that makes step sizes of whole tensors hard.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from meta_train.tasks.base import SampledTask, Task, TaskFamily
from meta_train.tasks.families.sampling import check_range, sample_int
from meta_train.tasks.module_task import ModuleTask

PAIRS = 4000
"""Examples of a task."""


@dataclass(frozen=True, kw_only=True)
class WordPairs(TaskFamily):
    """Tell pairs of words that occur together from random ones.

    Words are drawn by Zipf's law and belong to topics; words of one topic occur together. An
    example is a word, one that occurs with it, and random ones.

    Attributes:
        vocabulary: range of the number of words.
        width: range of the size of an embedding.
        topics: range of the number of topics.
        negatives: random words in an example.
        batch_size: range of examples per inner step.

    Raises:
        ValueError: numbers out of range.
    """

    vocabulary: Sequence[int] = (100, 1000)
    width: Sequence[int] = (4, 16)
    topics: Sequence[int] = (4, 32)
    negatives: int = 3
    batch_size: Sequence[int] = (8, 64)

    def __post_init__(self) -> None:
        """Check the settings."""
        check_range("vocabulary", self.vocabulary)
        check_range("width", self.width)
        check_range("topics", self.topics)
        check_range("batch_size", self.batch_size)
        if self.negatives < 1:
            raise ValueError(f"negatives must be at least 1, got {self.negatives}")

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """Draw a language and the size of the embeddings."""
        words, width = sample_int(generator, self.vocabulary), sample_int(generator, self.width)
        topics = sample_int(generator, self.topics)
        examples = _pairs(words, topics, self.negatives, generator)
        targets = torch.zeros(PAIRS, 1 + self.negatives)
        targets[:, 0] = 1
        task = ModuleTask(
            functools.partial(TwoEmbeddings, words, width),
            nn.functional.binary_cross_entropy_with_logits,
            (examples, targets),
            sample_int(generator, self.batch_size),
            full_rows=1000,
        )
        return SampledTask("word-pairs", task)

    def held_out(self) -> dict[str, Task]:
        """One language of the largest vocabulary."""
        largest = self.vocabulary[1]
        family = replace(self, vocabulary=(largest, largest), width=(12, 12), batch_size=(32, 32))
        task = family.sample_task(torch.Generator().manual_seed(12345)).task
        return {f"{largest} words": task}


class TwoEmbeddings(nn.Module):
    """Scores of words beside a word: inner products of two embeddings.

    Args:
        words: size of the vocabulary.
        width: size of an embedding.
    """

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.word = nn.Embedding(words, width)
        self.context = nn.Embedding(words, width)
        for table in (self.word, self.context):
            nn.init.normal_(table.weight, std=width**-0.5)

    def forward(self, words: Tensor) -> Tensor:
        """`[B, 1 + C]`, a word and C others, to scores `[B, C]`."""
        scores: Tensor = (self.word(words[:, :1]) * self.context(words[:, 1:])).sum(-1)
        return scores


def _pairs(words: int, topics: int, negatives: int, generator: torch.Generator) -> Tensor:
    """Examples `[PAIRS, 2 + negatives]`: a word, one of its topic, and random ones."""
    frequency = 1 / torch.arange(1, words + 1, dtype=torch.float64)
    topic = torch.randint(topics, (words,), generator=generator)
    word = torch.multinomial(frequency, PAIRS, replacement=True, generator=generator)
    together = (topic == torch.arange(topics).unsqueeze(-1)) * frequency  # [topics, words]
    partner = torch.multinomial(together[topic[word]], 1, replacement=True, generator=generator)
    random = torch.multinomial(
        frequency**0.75, PAIRS * negatives, replacement=True, generator=generator
    )
    return torch.cat([word.unsqueeze(-1), partner, random.reshape(PAIRS, negatives)], dim=-1)
