"""The step of step-size-lstm in C: two passes over all tensors, and the network in torch between.

The network's part is the rule's own (`StepSizeLSTM.coefficients`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from learned_opt.backends.library import thread_count
from learned_opt.backends.step_in_c import (
    LARGEST,
    SmallState,
    StepInC,
    addresses,
    call_c,
    rates,
    sizes,
)
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.rules.step_size_lstm import Memory, StepSizeLSTM
from learned_opt.rules.tensor_directions import PAIRS, SQUARES, SUMS, make_statistics
from learned_opt.updates import PendingUpdate

FIRST, SECOND = (np.array(indices) for indices in zip(*PAIRS, strict=True))
TIMES = np.where(FIRST == SECOND, 1.0, 2.0)
"""How often a pair of directions counts in a square."""


class StepSizeLSTMInC(StepInC):
    """56 bytes of memory traffic a parameter, twice fused AdamW's."""

    shares_signals = True

    def step(
        self,
        rule: UpdateRule,
        updates: Sequence[PendingUpdate],
        context: Context,
        maximize: bool,
    ) -> list[PendingUpdate]:
        """See `FusedStep.step`; the tensors are stepped together or left together."""
        if not isinstance(rule, StepSizeLSTM):
            raise TypeError(f"expected a StepSizeLSTM, got {type(rule).__name__}")
        if maximize and context.loss is not None:
            context = replace(context, loss=-context.loss)
        states = [update.state for update in updates]
        counts = sizes([update.parameter for update in updates])
        rows = [[update.gradient for update in updates], [update.parameter for update in updates]]
        rows += [[state[key] for state in states] for key in ("m9", "m99", "v")]
        tensors = np.concatenate([addresses(row) for row in rows])
        sign, threads = -1.0 if maximize else 1.0, thread_count(int(counts.sum()))
        exact = np.empty((len(updates), SUMS + 1))
        call_c("step_size_sums", len(updates), counts, tensors, sign, exact, threads)

        if not (np.abs(exact) < LARGEST).all():  # NaN is not below it
            return list(updates)
        small = SmallState(states, Memory._fields)
        before = Memory(*(torch.from_numpy(rows) for rows in small.rows))
        before = before._replace(step=before.step.reshape(-1) + 1)
        norms = np.sqrt(exact[:, SQUARES])
        size = np.maximum(counts, 1)
        is_vector = np.array([update.parameter.dim() <= 1 for update in updates])
        measured = norms, exact[:, 1:4], size, is_vector
        statistics = make_statistics(*(torch.from_numpy(x.astype(np.float32)) for x in measured))
        coefficients, after = rule.coefficients(statistics, before, context)
        mix = torch.stack(coefficients.mix, dim=-1).numpy().astype(np.float64)
        # |sum_i w_i d_i|^2, as in `mix_rms`.
        square = (mix[:, FIRST] * exact[:, 8:SUMS] * TIMES * mix[:, SECOND]).sum(1)
        rms = np.sqrt(np.maximum(square, 0) / size)
        factor = coefficients.factor(torch.from_numpy(rms.astype(np.float32)))

        lr, decay = rates(updates).T
        moves = (lr * factor.numpy())[:, None] * mix
        new = [value.numpy() for value in after]
        # The sums are finite, hence all gradients, parameters and averages. So this bounds the new
        # parameters, and finite memory is all that is left to see.
        lengths = norms[:, 4:]  # of the parameter and the directions
        bound = lengths[:, 0] * (1 + lr * decay) + (np.abs(moves) * lengths).sum(1)
        if not (bound < 0.9 * LARGEST).all() or not all(
            np.isfinite(x).all() for x in [exact, *new]
        ):
            return list(updates)
        shrink = (lr * decay).astype(np.float32)
        moves = moves.astype(np.float32)
        call_c("step_size_step", len(updates), counts, tensors, sign, moves, shrink, threads)
        small.write(new)
        return []
