"""The two passes of step-size-lstm in plain torch, in blocks that stay in the CPU's cache.

Small tensors are joined into one block: fewer, larger operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from learned_opt.backends.fused_step import expect
from learned_opt.backends.places import Places
from learned_opt.backends.plain_memory import refuses_cast
from learned_opt.backends.step_in_c import LARGEST, are_float32, rates
from learned_opt.backends.step_size_lstm import StepSizeLSTMOnCPU
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.rules.step_size_lstm import Memory, StepSizeLSTM
from learned_opt.rules.tensor_directions import (
    BETA_FAST,
    BETA_SLOW,
    BETA_SQUARE,
    EPS,
    PAIRS,
    SQUARES,
    SUMS,
    make_statistics,
)
from learned_opt.updates import PendingUpdate

BLOCK = 1 << 16
"""Elements of a block; twelve arrays of this size are 3 MiB."""

BLOCK_PER_THREAD = 1 << 15
"""So many elements for each thread, if that is more: torch gives a thread no fewer."""

LARGE = 1 << 14
"""Elements of a piece whose products are worth several calls."""

FIRST, SECOND = (np.array(indices) for indices in zip(*PAIRS, strict=True))
TIMES = np.where(FIRST == SECOND, 1.0, 2.0)
"""How often a pair of directions counts in a square."""


@dataclass(slots=True, eq=False)
class _Block:
    """Pieces of tensors, of so many elements in all: one piece, or several whole tensors.

    Attributes:
        numbers: of the tensors in the step.
        counts: elements of each piece.
        tensors: gradients, parameters, m9, m99 and v: of one piece flat, of several as they are.
    """

    numbers: list[int]
    counts: list[int]
    tensors: tuple[list[Tensor], ...]

    def read(self, role: int, target: Tensor) -> None:
        """Copy the pieces of a role, joined, to `[sum of counts]`."""
        pieces = self.tensors[role]
        # To flatten each in Python would take as long as the arithmetic of a small tensor.
        target.copy_(pieces[0] if len(pieces) == 1 else _flatten_dense_tensors(pieces))

    def write(self, role: int, values: Tensor) -> None:
        """Copy `[sum of counts]` to the tensors of a role."""
        pieces = self.tensors[role]
        torch._foreach_copy_(pieces, list(_unflatten_dense_tensors(values, pieces)))


class StepSizeLSTMInBlocks(StepSizeLSTMOnCPU):
    """For machines without the C library: a fifth of the memory traffic of the rule itself."""

    def __init__(self) -> None:
        self._buffers = torch.empty(0, device="cpu")

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """Refuse rules that were cast to another dtype."""
        return refuses_cast(rule)

    @torch.inference_mode()
    def step(
        self,
        rule: UpdateRule,
        places: Places,
        context: Context,
        maximize: bool,
    ) -> list[PendingUpdate]:
        """See `FusedStep.step`; the tensors are stepped together or left together."""
        updates = places.updates
        own = expect(rule, StepSizeLSTM)
        if maximize and context.loss is not None:
            context = replace(context, loss=-context.loss)
        sign = -1.0 if maximize else 1.0
        blocks = list(_blocks(updates))
        sums = self._sums(blocks, len(updates), sign)
        lr, decay = rates(updates).T
        # NaN is not below it.
        if not ((np.abs(sums) < LARGEST).all() and are_float32(lr, decay).all()):
            return list(updates)
        before = _read_memory(updates)
        norms = np.sqrt(sums[:, SQUARES])
        size = np.maximum([update.parameter.numel() for update in updates], 1)
        is_vector = np.array([update.parameter.dim() <= 1 for update in updates])
        measured = norms, sums[:, 1:4], size, is_vector
        statistics = make_statistics(*(torch.from_numpy(x.astype(np.float32)) for x in measured))
        before = before._replace(step=before.step + 1)
        coefficients, after = own.coefficients(statistics, before, context)
        mix = torch.stack(coefficients.mix, dim=-1).numpy().astype(np.float64)
        # |sum_i w_i d_i|^2, as in `mix_rms`.
        square = (mix[:, FIRST] * sums[:, 8:SUMS] * TIMES * mix[:, SECOND]).sum(1)
        rms = np.sqrt(np.maximum(square, 0) / size)
        factor = coefficients.factor(torch.from_numpy(rms.astype(np.float32)))

        weights = (lr * factor.numpy())[:, None] * mix
        # The sums are finite, hence all gradients, parameters and averages. So this bounds the new
        # parameters, and finite memory is all that is left to see.
        lengths = norms[:, 4:]  # of the parameter and the directions
        bound = lengths[:, 0] * (1 + np.abs(lr * decay)) + (np.abs(weights) * lengths).sum(1)
        remembered = all(np.isfinite(rows.numpy()).all() for rows in after)
        bounded = (bound < 0.9 * LARGEST).all() and (np.abs(weights) < LARGEST).all()
        if not (remembered and bounded):
            return list(updates)
        self._move(blocks, sign, weights.astype(np.float32), (lr * decay).astype(np.float32))
        _write_memory(updates, after)
        return []

    def _sums(self, blocks: Sequence[_Block], tensors: int, sign: float) -> NDArray[np.float64]:
        """The sums of `SUMS` over each of so many tensors, and that of v after the step, `[n, 24]`.

        In float over a block, and in double over the blocks. That of v is only to see whether it is
        finite: a block's goes to its first tensor.
        """
        sums = torch.zeros(2, tensors, 5, 5, dtype=torch.float64, device="cpu")
        totals = torch.zeros(tensors, 1, dtype=torch.float64, device="cpu")
        for block in blocks:
            rows = self._rows(sum(block.counts))
            g, m, s, a, p, q, d, e, n, h, v, _ = rows.unbind()
            for role, target in enumerate((g, p, m, s, v)):
                block.read(role, target)
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
            grams = _products(rows, block.counts)
            sums.index_add_(1, torch.tensor(block.numbers, device="cpu"), grams.double())
        before, after = sums
        squares = before.diagonal(dim1=1, dim2=2)[:, 1:]
        found = [before[:, 0, :4], squares, after[:, FIRST, SECOND], totals]
        return torch.cat(found, dim=1).numpy()

    def _move(
        self,
        blocks: Sequence[_Block],
        sign: float,
        weights: NDArray[np.float32],
        shrink: NDArray[np.float32],
    ) -> None:
        """Move parameters and averages in place.

        Args:
            blocks: of all tensors.
            sign: what gradients are multiplied by, 1 or -1.
            weights: of the parameter and the directions in the order of `Mix`, with the learning
                rate, `[n, 5]`.
            shrink: subtract this times the parameter, `[n]`.
        """
        columns = torch.from_numpy(np.concatenate([weights, shrink[:, None]], axis=1)).T
        for block in blocks:
            count = sum(block.counts)
            g, move, other, *copies = self._rows(count).unbind()[:7]
            block.read(0, g)
            if sign != 1:
                g.mul_(sign)
            p, m, s, v = (pieces[0] for pieces in block.tensors[1:])
            w = columns[:, block.numbers]
            if len(block.numbers) > 1:
                p, m, s, v = copies
                for role, target in enumerate(copies, 1):
                    block.read(role, target)
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
                for role, values in enumerate((p, m, s, v), 1):
                    block.write(role, values)

    def _rows(self, count: int) -> Tensor:
        """Twelve arrays of `count` elements, `[12, count]`; the same memory at every call."""
        if self._buffers.numel() < 12 * count:
            self._buffers = torch.empty(12 * count, dtype=torch.float32, device="cpu")
        return self._buffers[: 12 * count].reshape(12, count)


def _products(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Products of rows 0 to 4 and of rows 5 to 9 with each other, for each piece: `[2, n, 5, 5]`.

    Of one large piece only those that are read: all products of five rows take longer.
    """
    if len(counts) > 1 or counts[0] < LARGE:
        grams = torch.empty(2, len(counts), 5, 5, dtype=torch.float32, device="cpu")
        for half, products in zip((rows[:5], rows[5:10]), grams, strict=True):
            for part, product in zip(half.split(counts, dim=1), products, strict=True):
                torch.mm(part, part.T, out=product)
        return grams
    grams = torch.zeros(2, 1, 5, 5, dtype=torch.float32, device="cpu")
    before, after = grams[:, 0]
    torch.mv(rows[:4], rows[0], out=before[0, :4])
    before.diagonal()[1:].copy_(torch.stack(torch._foreach_norm(list(rows[1:5]), 2)).square_())
    for k in range(5):
        torch.mv(rows[5 + k : 10], rows[5 + k], out=after[k, k:])
    return grams


def _read_memory(updates: Sequence[PendingUpdate]) -> Memory:
    """The small state of n tensors, one operation for each kind."""
    states = [update.state for update in updates]
    return Memory(*(torch.stack([state[key] for state in states]) for key in Memory._fields))


def _write_memory(updates: Sequence[PendingUpdate], memory: Memory) -> None:
    """One operation for all tensors."""
    own = [update.state[key] for key in Memory._fields for update in updates]
    torch._foreach_copy_(own, [row for rows in memory for row in rows.unbind()])


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
    rows = [_tensors_of(updates[k]) for k in numbers]
    counts = [row[1].numel() for row in rows]
    if len(rows) == 1:
        return _Block(numbers, counts, tuple([tensor.view(-1)] for tensor in rows[0]))
    return _Block(numbers, counts, tuple(list(column) for column in zip(*rows, strict=True)))


def _tensors_of(update: PendingUpdate) -> tuple[Tensor, ...]:
    state = update.state
    return update.gradient, update.parameter, state["m9"], state["m99"], state["v"]
