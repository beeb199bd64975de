"""The step of step-size-lstm in C: two passes over all tensors, and the network in torch between.

The network's part is the rule's own (`StepSizeLSTM.coefficients`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from learned_opt.backends.library import thread_count
from learned_opt.backends.step_in_c import LARGEST, StepInC, addresses, call_c, rates, sizes
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.rules.step_size_lstm import Memory, StepSizeLSTM
from learned_opt.rules.tensor_directions import SUMS, measure_sums, mix_rms
from learned_opt.updates import PendingUpdate


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
        wide = np.empty((len(updates), SUMS + 1))
        call_c("step_size_sums", len(updates), counts, tensors, sign, wide, threads)

        sums = torch.from_numpy(wide).float()
        before = Memory(*(torch.stack([state[key] for state in states]) for key in Memory._fields))
        before = before._replace(step=before.step + 1)
        size = torch.from_numpy(counts).clamp(min=1).float()
        is_vector = torch.tensor([float(update.parameter.dim() <= 1) for update in updates])
        statistics = measure_sums(sums[:, :SUMS], size, is_vector)
        coefficients, after = rule.coefficients(statistics, before, context)
        factor = coefficients.factor(mix_rms(sums[:, :SUMS], coefficients.mix, size))
        weights = factor.unsqueeze(-1) * torch.stack(coefficients.mix, dim=-1)

        lr, decay = rates(updates).T
        weights = torch.from_numpy(lr).unsqueeze(-1) * weights.double()
        # A bound on the new parameters. If it and the sums are finite, so is all that is written.
        norm = statistics.norm
        lengths = (norm.parameter, norm.adam, norm.slow_adam, norm.m9, norm.scaled_gradient)
        bound = (weights.abs() * torch.stack(lengths, dim=-1)).sum(-1)
        bound += norm.parameter * torch.from_numpy(1 + lr * decay)
        written = [sums, *after]
        if not (bound < 0.9 * LARGEST).all() or not all(x.isfinite().all() for x in written):
            return list(updates)
        call_c(
            "step_size_step",
            len(updates),
            counts,
            tensors,
            sign,
            weights.float().numpy(),
            (lr * decay).astype(np.float32),
            threads,
        )
        for key, values in zip(Memory._fields, after, strict=True):
            torch._foreach_copy_([state[key] for state in states], list(values.unbind()))
        return []
