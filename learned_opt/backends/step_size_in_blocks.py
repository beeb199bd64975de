"""The two passes of step-size-lstm in plain torch, in blocks that stay in the CPU's cache.

Small tensors are joined into one block: fewer, larger operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.backends.plain_memory import refuses_cast
from learned_opt.backends.step_size_lstm import StepSizeLSTMInTwoPasses
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.step_size_lstm import Memory
from learned_opt.rules.tensor_directions import (
    BETA_FAST,
    BETA_SLOW,
    BETA_SQUARE,
    EPS,
    PAIRS,
)
from learned_opt.updates import PendingUpdate

BLOCK = 1 << 16
"""Elements of a block; twelve arrays of this size are 3 MiB."""

BLOCK_PER_THREAD = 1 << 15
"""So many elements for each thread, if that is more: torch gives a thread no fewer."""

FIRST, SECOND = (torch.tensor(indices, device="cpu") for indices in zip(*PAIRS, strict=True))


@dataclass(slots=True, eq=False)
class _Block:
    """Pieces of tensors, of so many elements in all: one piece, or several whole tensors.

    Attributes:
        numbers: of the tensors in the step.
        counts: elements of each piece.
        tensors: gradients, parameters, m9, m99 and v of the pieces, flat.
    """

    numbers: list[int]
    counts: list[int]
    tensors: tuple[list[Tensor], ...]


class StepSizeLSTMInBlocks(StepSizeLSTMInTwoPasses):
    """For machines without the C library: a fifth of the memory traffic of the rule itself."""

    def __init__(self) -> None:
        self._buffers = torch.empty(0, device="cpu")

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """Refuse rules that were cast to another dtype."""
        return refuses_cast(rule)

    def sums(self, updates: Sequence[PendingUpdate], sign: float) -> NDArray[np.float64]:
        """In float over a block, and in double over the blocks.

        That of v is only to see whether it is finite: a block's goes to its first tensor.
        """
        sums = torch.zeros(2, len(updates), 5, 5, dtype=torch.float64, device="cpu")
        totals = torch.zeros(len(updates), 1, dtype=torch.float64, device="cpu")
        for block in _blocks(updates):
            rows = self._rows(sum(block.counts))
            g, m, s, a, p, q, d, e, n, h, v, _ = rows.unbind()
            for target, pieces in zip((g, p, m, s, v), block.tensors, strict=True):
                torch.cat(pieces, out=target)
            if sign != 1:
                g.mul_(sign)
            torch.add(v, EPS, out=a).rsqrt_().mul_(m)
            torch.lerp(m, g, 1 - BETA_FAST, out=n)
            torch.lerp(s, g, 1 - BETA_SLOW, out=e)
            v.mul_(BETA_SQUARE).addcmul_(g, g, value=1 - BETA_SQUARE)
            totals[block.numbers[0]] += v.sum()
            torch.sign(v, out=q).mul_(p)
            v.add_(EPS).rsqrt_()
            torch.mul(n, v, out=d)
            e.mul_(v)
            torch.mul(g, v, out=h)
            grams = torch.empty(2, len(block.numbers), 5, 5, dtype=torch.float32, device="cpu")
            for half, products in zip((rows[:5], rows[5:10]), grams, strict=True):
                for part, product in zip(half.split(block.counts, dim=1), products, strict=True):
                    torch.mm(part, part.T, out=product)
            sums.index_add_(1, torch.tensor(block.numbers, device="cpu"), grams.double())
        before, after = sums
        squares = before.diagonal(dim1=1, dim2=2)[:, 1:]
        found = [before[:, 0, :4], squares, after[:, FIRST, SECOND], totals]
        return torch.cat(found, dim=1).numpy()

    def move(
        self,
        updates: Sequence[PendingUpdate],
        sign: float,
        weights: NDArray[np.float32],
        shrink: NDArray[np.float32],
    ) -> None:
        """In the blocks of `sums`."""
        columns = torch.from_numpy(np.concatenate([weights, shrink[:, None]], axis=1)).T
        for block in _blocks(updates):
            count = sum(block.counts)
            g, move, other, *copies = self._rows(count).unbind()[:7]
            torch.cat(block.tensors[0], out=g)
            if sign != 1:
                g.mul_(sign)
            p, m, s, v = (pieces[0] for pieces in block.tensors[1:])
            w = columns[:, block.numbers]
            if len(block.numbers) > 1:
                p, m, s, v = copies
                for target, pieces in zip(copies, block.tensors[1:], strict=True):
                    torch.cat(pieces, out=target)
                repeats = torch.tensor(block.counts, device="cpu")
                w = w.repeat_interleave(repeats, dim=1, output_size=count)
            m.lerp_(g, 1 - BETA_FAST)
            s.lerp_(g, 1 - BETA_SLOW)
            v.mul_(BETA_SQUARE).addcmul_(g, g, value=1 - BETA_SQUARE)
            torch.mul(m, w[1], out=move).addcmul_(s, w[2]).addcmul_(g, w[4])
            move.mul_(torch.add(v, EPS, out=other).rsqrt_())
            move.addcmul_(m, w[3]).addcmul_(p, w[0])
            move.mul_(torch.sign(v, out=other)).addcmul_(p, w[5], value=-1)
            p.add_(move)
            if len(block.numbers) > 1:
                for pieces, values in zip(block.tensors[1:], (p, m, s, v), strict=True):
                    torch._foreach_copy_(pieces, list(values.split(block.counts)))

    def read_memory(self, updates: Sequence[PendingUpdate], hidden_size: int) -> Memory:
        """One operation for each kind of state."""
        states = [update.state for update in updates]
        return Memory(*(torch.stack([state[key] for state in states]) for key in Memory._fields))

    def write_memory(self, updates: Sequence[PendingUpdate], memory: Memory) -> None:
        """One operation for all tensors."""
        own = [update.state[key] for key in Memory._fields for update in updates]
        torch._foreach_copy_(own, [row for rows in memory for row in rows.unbind()])

    def _rows(self, count: int) -> Tensor:
        """Twelve arrays of `count` elements, `[12, count]`; the same memory at every call."""
        if self._buffers.numel() < 12 * count:
            self._buffers = torch.empty(12 * count, dtype=torch.float32, device="cpu")
        return self._buffers[: 12 * count].reshape(12, count)


def _blocks(updates: Sequence[PendingUpdate]) -> Iterator[_Block]:
    """Cut large tensors into pieces, and join small ones that follow each other."""
    limit = max(BLOCK, BLOCK_PER_THREAD * torch.get_num_threads())
    numbers: list[int] = []
    total = 0
    for number, update in enumerate(updates):
        count = update.parameter.numel()
        if numbers and total + count > limit:
            yield _joined(updates, numbers)
            numbers, total = [], 0
        if count > limit:
            flat = [tensor.reshape(-1) for tensor in _tensors_of(update)]
            for start in range(0, count, limit):
                pieces = [[tensor[start : start + limit]] for tensor in flat]
                yield _Block([number], [min(limit, count - start)], tuple(pieces))
        elif count:
            numbers.append(number)
            total += count
    if numbers:
        yield _joined(updates, numbers)


def _joined(updates: Sequence[PendingUpdate], numbers: list[int]) -> _Block:
    rows = [[tensor.reshape(-1) for tensor in _tensors_of(updates[k])] for k in numbers]
    counts = [len(row[0]) for row in rows]
    return _Block(numbers, counts, tuple(list(column) for column in zip(*rows, strict=True)))


def _tensors_of(update: PendingUpdate) -> tuple[Tensor, ...]:
    state = update.state
    return update.gradient, update.parameter, state["m9"], state["m99"], state["v"]
