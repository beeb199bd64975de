"""The step of `step-size-lstm` on a GPU: two passes over all tensors, the network between them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from learned_opt.backends.fused_step import expect
from learned_opt.backends.places import Places
from learned_opt.backends.triton.step_in_triton import (
    LARGEST,
    StepInTriton,
    by_dtypes,
    on,
    refuses_state,
)
from learned_opt.rules.base import Context, State, UpdateRule
from learned_opt.rules.parts.tensor_directions import SUMS, Statistics, measure_sums, mix_rms
from learned_opt.rules.step_size_lstm import Memory, StepSizeLSTM
from learned_opt.updates import PendingUpdate

AVERAGES = ("m9", "m99", "v")

NETWORK = ("h", "c", "scalars")


class StepSizeInTriton(StepInTriton):
    """Three launches for all tensors, and the network in torch between them."""

    shares_signals = True

    def refuses_state(self, state: State) -> str | None:
        """Refuse state that is not contiguous float32."""
        return refuses_state(state)

    def step(
        self,
        rule: UpdateRule,
        places: Places,
        context: Context,
        maximize: bool,
    ) -> list[PendingUpdate]:
        """See `FusedStep.step`.

        Raises:
            TypeError: the step of another rule.
        """
        # Only here: a machine without a GPU never imports Triton.
        from learned_opt.backends.triton import step_size_launch as launch

        own = expect(rule, StepSizeLSTM)
        updates, sign = places.updates, -1.0 if maximize else 1.0
        if maximize and context.loss is not None:
            context = replace(context, loss=-context.loss)
        groups = by_dtypes(updates)
        ordered = [update for group in groups.values() for update in group]
        device = ordered[0].parameter.device
        tables = {
            dtypes: self.table(dtypes, launch.BLOCK, [_tensors(update) for update in group])
            for dtypes, group in groups.items()
        }
        with on(device):
            parts = [launch.measure(table, dtypes, sign) for dtypes, table in tables.items()]
            sums = torch.cat(parts).float()
            size = self.sizes(ordered, device).float()
            vectors = tuple(update.parameter.dim() <= 1 for update in ordered)
            is_vector = self.constants(tuple(map(float, vectors)), device)
            before = Memory(
                torch.stack([update.state["step"] for update in ordered]) + 1,
                *(torch.stack([update.state[key] for update in ordered]) for key in NETWORK),
            )
            statistics = measure_sums(sums[:, :SUMS], size, is_vector)
            coefficients, after = own.coefficients(statistics, before, context)
            rates = self.rates.get([update.group for update in ordered], device)
            factor = coefficients.factor(mix_rms(sums[:, :SUMS], coefficients.mix, size))
            weights = factor.unsqueeze(-1) * torch.stack(coefficients.mix, dim=-1)
            weights = rates[:, :1] * weights.double()
            written = is_safe(sums, statistics, weights, rates[:, 1], after)
            numbers = torch.cat([weights, rates[:, 1:]], dim=-1).float()
            begin = 0
            for (dtypes, table), part in zip(tables.items(), parts, strict=True):
                rows = slice(begin, begin + len(part))
                launch.combine(table, dtypes, numbers[rows], written[rows], sign)
                begin = rows.stop
            self.write_numbers(ordered, after._asdict(), written)
        self.judge(ordered, written)
        return []


def is_safe(
    sums: Tensor, statistics: Statistics, weights: Tensor, decay: Tensor, after: Memory
) -> Tensor:
    """Whether all that a step would write is surely finite, `[n]`.

    Sums of squares that are finite are of finite numbers, and their roots bound each of them.

    Args:
        sums: `[n, 24]`.
        statistics: made of the sums.
        weights: of the parameter and the four directions, `[n, 5]`, float64.
        decay: learning rate times weight decay, `[n]`, float64.
        after: the network's state after the step.
    """
    norm = statistics.norm
    lengths = (norm.parameter, norm.adam, norm.slow_adam, norm.m9, norm.scaled_gradient)
    bound = (weights.abs() * torch.stack(lengths, dim=-1)).sum(-1) + norm.parameter * (1 + decay)
    safe = bound < LARGEST  # False where it is NaN
    for values in (sums, *after[1:]):
        safe = safe & values.isfinite().all(-1)
    return safe


def _tensors(update: PendingUpdate) -> list[Tensor]:
    return [update.gradient, update.parameter, *(update.state[key] for key in AVERAGES)]
