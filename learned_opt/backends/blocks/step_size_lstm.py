"""The two passes of step-size-lstm in plain torch, in blocks that stay in the CPU's cache.

Small tensors are joined into one block: fewer, larger operations. The second pass takes the blocks
in the opposite order: it begins with what is still in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.backends.blocks.step_size_sums import (
    FIRST,
    SECOND,
    fill_sums_of_one,
    fill_sums_of_several,
)
from learned_opt.backends.blocks.tensor_blocks import TensorBlock, cut_and_join
from learned_opt.backends.c_steps.step_in_c import LARGEST, are_float32, rates
from learned_opt.backends.fused_step import expect
from learned_opt.backends.places import Places
from learned_opt.backends.plain_memory import refuses_cast
from learned_opt.backends.step_size_on_cpu import StepSizeLSTMOnCPU
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.rules.parts.tensor_directions import (
    BETA_FAST,
    BETA_SLOW,
    BETA_SQUARE,
    EPS,
    SQUARES,
    SUMS,
    make_statistics,
)
from learned_opt.rules.step_size_lstm import Memory, StepSizeLSTM
from learned_opt.updates import PendingUpdate

TIMES = np.where(FIRST == SECOND, 1.0, 2.0)
"""How often each pair of directions appears in the square of a mix."""


@dataclass(frozen=True)
class _Measured:
    """A block after the first pass.

    Attributes:
        block: the block.
        has_idle: whether v of an element is not above 0 after the step.
        values: what was read of it; None where the buffers have been taken for another block.
    """

    block: TensorBlock
    has_idle: bool
    values: list[Tensor] | None


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
        blocks = list(cut_and_join([_tensors_of(update) for update in updates]))
        sums, measured_blocks = self._sums(blocks, len(updates), sign)
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
        self._move(
            measured_blocks, sign, weights.astype(np.float32), (lr * decay).astype(np.float32)
        )
        _write_memory(updates, after)
        return []

    def _sums(
        self, blocks: Sequence[TensorBlock], tensors: int, sign: float
    ) -> tuple[NDArray[np.float64], list[_Measured]]:
        """The sums of `SUMS` over each tensor, and the sum of v after the step, `[n, 24]`.

        In float over a block, and in double over the blocks. The sum of v only tells whether v is
        finite: that of a whole block goes to the block's first tensor.
        """
        numbers = [number for block in blocks for number in block.numbers]
        found = torch.zeros(len(numbers), SUMS + 1, dtype=torch.float32, device="cpu")
        measured: list[_Measured] = []
        rest = found
        for block in blocks:
            own, rest = rest[: len(block.numbers)], rest[len(block.numbers) :]
            rows = self._rows(block)
            other, q, d, e, n, h, a, *copies, _ = rows.unbind()
            values = _read(block, copies, sign)
            g, m, s, p, v = values
            torch.add(v, EPS, out=a).rsqrt_().mul_(m)
            torch.lerp(m, g, 1 - BETA_FAST, out=n)
            torch.lerp(s, g, 1 - BETA_SLOW, out=e)
            torch.mul(v, BETA_SQUARE, out=other).addcmul_(g, g, value=1 - BETA_SQUARE)
            own[0, SUMS] = other.sum()
            has_idle = not other.amin().item() > 0
            if has_idle:
                torch.sign(other, out=q).mul_(p)
            other.add_(EPS).rsqrt_()
            torch.mul(n, other, out=d)
            e.mul_(other)
            torch.mul(g, other, out=h)
            if block.is_joined:
                if not has_idle:
                    q.copy_(p)
                fill_sums_of_several(rows[1:11], block, own)
            else:
                masked = q if has_idle else p
                fill_sums_of_one((g, m, s, a, p), masked, rows[2:6], own[0, :SUMS])
            is_last = len(measured) == len(blocks) - 1
            measured.append(_Measured(block, has_idle, values if is_last else None))
        sums = torch.zeros(tensors, SUMS + 1, dtype=torch.float64, device="cpu")
        sums.index_add_(0, torch.tensor(numbers, dtype=torch.int64, device="cpu"), found.double())
        return sums.numpy(), measured

    def _move(
        self,
        blocks: Sequence[_Measured],
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
        for measured in reversed(blocks):
            block = measured.block
            rows = self._rows(block)
            other, move, copies = rows[0], rows[-1], list(rows[7:-1].unbind())
            values = _read(block, copies, sign) if measured.values is None else measured.values
            g, m, s, p, v = values
            w = columns[:, block.numbers]
            if block.is_joined:
                w = block.repeat(w, rows[1:7])
            m.lerp_(g, 1 - BETA_FAST)
            s.lerp_(g, 1 - BETA_SLOW)
            v.mul_(BETA_SQUARE).addcmul_(g, g, value=1 - BETA_SQUARE)
            torch.mul(m, w[1], out=move).addcmul_(s, w[2]).addcmul_(g, w[4])
            move.mul_(torch.add(v, EPS, out=other).rsqrt_())
            move.addcmul_(m, w[3]).addcmul_(p, w[0])
            if measured.has_idle:
                move.mul_(torch.sign(v, out=other))
            move.addcmul_(p, w[5], value=-1)
            p.add_(move)
            block.write(values)

    def _rows(self, block: TensorBlock) -> Tensor:
        """Arrays for a block, `[k, sum of counts]`; the same memory at every call.

        Joined tensors need thirteen: five are for copies, of which one piece needs one.
        """
        number, count = 13 if block.is_joined else 9, sum(block.counts)
        if self._buffers.numel() < number * count:
            self._buffers = torch.empty(number * count, dtype=torch.float32, device="cpu")
        return self._buffers[: number * count].reshape(number, count)


def _read(block: TensorBlock, copies: Sequence[Tensor], sign: float) -> list[Tensor]:
    """Gradients times the sign, m9, m99, parameters and v of a block, `[sum of counts]` each."""
    values = block.read(copies)
    if sign != 1:
        values[0] = torch.mul(values[0], sign, out=copies[0])
    return values


def _read_memory(updates: Sequence[PendingUpdate]) -> Memory:
    """The small state of n tensors, one operation for each kind."""
    states = [update.state for update in updates]
    return Memory(*(torch.stack([state[key] for state in states]) for key in Memory._fields))


def _write_memory(updates: Sequence[PendingUpdate], memory: Memory) -> None:
    """One operation for all tensors."""
    own = [update.state[key] for key in Memory._fields for update in updates]
    torch._foreach_copy_(own, [row for rows in memory for row in rows.unbind()])


def _tensors_of(update: PendingUpdate) -> tuple[Tensor, ...]:
    state = update.state
    return update.gradient, state["m9"], state["m99"], update.parameter, state["v"]
