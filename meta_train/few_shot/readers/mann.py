"""The memory-augmented network of Santoro et al. 2016 (MANN, arXiv 1605.06065)."""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from meta_train.few_shot.readers.base import SequenceReader
from meta_train.runtime.checks import check_at_least

EPS = 1e-6
"""Added to the product of norms in a cosine: the memory starts at zero."""


class Memory(NamedTuple):
    """The external memory, R reads and N rows of W numbers.

    Attributes:
        rows: M, `[sequences, N, W]`.
        reads: w^r of the last step, `[sequences, R, N]`.
        usage: w^u, `[sequences, N]`.
    """

    rows: Tensor
    reads: Tensor
    usage: Tensor


def read_weights(keys: Tensor, rows: Tensor) -> Tensor:
    """w^r: the softmax over rows of the cosines of keys and rows (eq. 2 to 3).

    Args:
        keys: `[sequences, R, W]`.
        rows: `[sequences, N, W]`.

    Returns:
        `[sequences, R, N]`.
    """
    lengths = keys.norm(dim=-1)[:, :, None] * rows.norm(dim=-1)[:, None]
    cosines: Tensor = keys @ rows.transpose(1, 2) / (lengths + EPS)
    return cosines.softmax(-1)


def least_used(usage: Tensor, count: int) -> Tensor:
    """w^lu: the least used rows, one for each write, one-hot, `[sequences, count, N]` (eq. 6)."""
    # A stable order: all rows are equally unused at first.
    rows = usage.argsort(dim=-1, stable=True)[:, :count]
    return nn.functional.one_hot(rows, usage.shape[-1]).to(usage)


def step_memory(memory: Memory, keys: Tensor, gates: Tensor, decay: float) -> tuple[Memory, Tensor]:
    """Write the keys, then read with them: least recently used access (section 3.2).

        w^w_t = gate w^r_{t-1} + (1 - gate) w^lu_{t-1}
        M_t = M_{t-1}, its least used rows set to zero, + w^w_t k_t
        w^r_t = softmax(cosine(k_t, M_t)),  r_t = w^r_t M_t
        w^u_t = decay w^u_{t-1} + w^r_t + w^w_t

    A write goes to the rows that were read a step before, or to the least used row. With R reads,
    the R least used rows are given to the R writes, the least used one to the first.

    Args:
        memory: the memory before the step.
        keys: k_t, `[sequences, R, W]`.
        gates: sigmoid(alpha), `[sequences, R]`.
        decay: gamma, the decay of usage.

    Returns:
        The memory after the step, and r_t, `[sequences, R, W]`.
    """
    unused = least_used(memory.usage, keys.shape[1])
    gates = gates.unsqueeze(-1)
    writes = gates * memory.reads + (1 - gates) * unused
    kept = (1 - unused.sum(1)).unsqueeze(-1)
    rows = kept * memory.rows + writes.transpose(1, 2) @ keys
    reads = read_weights(keys, rows)
    usage = decay * memory.usage + (reads + writes).sum(1)
    return Memory(rows, reads, usage), reads @ rows


@final
class MANN(SequenceReader):
    """An LSTM that controls an external memory with R read heads.

    The controller reads (x_t, y_{t-1}, r_{t-1}), and its output h_t gives the keys and the gates.
    (h_t, r_t) gives the scores.

    Args:
        pixels: numbers per image.
        ways: classes per sequence (N).
        units: cells of the controller.
        rows: rows of the memory.
        width: numbers per row.
        reads: read heads (R), each of which also writes.
        decay: gamma, the decay of usage per step.

    Raises:
        ValueError: a number below 1, fewer rows than reads, or a decay outside [0, 1].
    """

    def __init__(
        self,
        pixels: int,
        ways: int,
        *,
        units: int = 200,
        rows: int = 128,
        width: int = 40,
        reads: int = 4,
        decay: float = 0.99,
    ) -> None:
        super().__init__(pixels, ways)
        check_at_least(1, units=units, width=width, reads=reads)
        if rows < reads:
            raise ValueError(f"rows must be at least the {reads} reads, got {rows}")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must be from 0 to 1, got {decay}")
        self.rows, self.width, self.reads, self.decay = rows, width, reads, decay
        self.controller = nn.LSTMCell(pixels + ways + reads * width, units)
        self.key = nn.Linear(units, reads * width)
        self.gate = nn.Linear(units, reads)
        self.head = nn.Linear(units + reads * width, ways)

    def scores(self, inputs: Tensor) -> Tensor:
        """See `SequenceReader`."""
        count = len(inputs)
        memory = self.empty_memory(inputs)
        read = inputs.new_zeros(count, self.reads * self.width)
        state = inputs.new_zeros(2, count, self.controller.hidden_size).unbind()
        outputs = []
        for given in inputs.unbind(1):
            hidden, _ = state = self.controller(torch.cat([given, read], -1), state)
            keys = self.key(hidden).tanh().unflatten(-1, (self.reads, self.width))
            memory, found = step_memory(memory, keys, self.gate(hidden).sigmoid(), self.decay)
            read = found.flatten(1)
            outputs.append(torch.cat([hidden, read], -1))
        scores: Tensor = self.head(torch.stack(outputs, 1))
        return scores

    def empty_memory(self, like: Tensor) -> Memory:
        """A memory of zeros for as many sequences as `like` has, on its device."""
        count = len(like)
        return Memory(
            rows=like.new_zeros(count, self.rows, self.width),
            reads=like.new_zeros(count, self.reads, self.rows),
            usage=like.new_zeros(count, self.rows),
        )
