"""The step of `orthogonal-momentum` on a GPU: two passes, the matrix products in torch between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
from learned_opt.backends.triton.table import Dtypes, TensorTable
from learned_opt.rules.base import Context, State, UpdateRule
from learned_opt.rules.orthogonal_momentum import (
    FADE,
    TINY,
    VECTOR_FLOOR,
    OrthogonalMomentum,
    is_stepped_as_matrix,
)
from learned_opt.rules.parts.features import bias_correction, moving_average
from learned_opt.rules.parts.momentum_constants import (
    RMS_FLOOR,
    RMS_USUAL,
    SIZE_BETA,
)
from learned_opt.rules.parts.orthogonalize import direction_scale, matrix_shape, orthogonalize_unit
from learned_opt.rules.parts.pace import cosine_from_lengths, next_pace
from learned_opt.rules.parts.whole_tensors import one_where_zero
from learned_opt.updates import PendingUpdate

LARGEST_NORM = 1e37
"""A matrix is divided by its norm in float32; one of a larger norm is skipped."""


@dataclass(frozen=True)
class _Part:
    """Tensors of one launch.

    Attributes:
        updates: the tensors.
        dtypes: of their parameters and gradients.
        rows: their place among all tensors of the step.
        scratch: memory for the matrices of each shape in turn, `[count, rows, columns]`; empty for
            vectors.
        table: of the tensors and their scratch memory.
    """

    updates: list[PendingUpdate]
    dtypes: Dtypes
    rows: slice
    scratch: list[Tensor]
    table: TensorTable

    @property
    def is_matrix(self) -> bool:
        return bool(self.scratch)


class OrthogonalMomentumInTriton(StepInTriton):
    """Momentum, look-ahead, average and step in two passes; Newton-Schulz in torch, in bfloat16."""

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
        from learned_opt.backends.triton import orthogonal_launch as launch

        own = expect(rule, OrthogonalMomentum)
        updates, sign = places.updates, -1.0 if maximize else 1.0
        device = updates[0].parameter.device
        with on(device):
            parts = self._parts(updates, launch.BLOCK)
            ordered = [update for part in parts for update in part.updates]
            step = torch.stack([update.state["step"] for update in ordered]) + 1
            scalars = torch.stack([update.state["scalars"] for update in ordered])
            # As in `OrthogonalMomentum`: the parameter is there after step - 1 steps.
            taken, averaged = step - 1, scalars[:, 1]
            averaging = float(own.constants.averaging)
            weight = torch.where(taken > averaged, (averaging + 1) / (taken + averaging), 0.0)
            b1, b2 = own.vector_betas
            first = torch.stack(
                [bias_correction(step, b1), bias_correction(step, b2).sqrt(), weight], dim=-1
            )
            decays = {
                True: self.constants(_pairs(own.momentum, 0.0), device),
                False: self.constants(_pairs(b1, b2), device),
            }
            sums = torch.cat(
                [
                    launch.measure(
                        part.table,
                        part.dtypes,
                        first[part.rows],
                        decays[part.is_matrix],
                        sign,
                        is_matrix=part.is_matrix,
                    )
                    for part in parts
                ]
            )
            size = self.sizes(ordered, device).double()
            gradient_rms, parameter_rms, ahead_rms, direction_rms = (
                (sums[:, k] / size).sqrt().float() for k in range(4)
            )
            mean_size = moving_average(scalars[:, 0], gradient_rms, SIZE_BETA)
            averaged = torch.where(mean_size == 0, averaged, torch.maximum(taken, averaged))
            usual = mean_size / bias_correction(step, SIZE_BETA)
            fade = (ahead_rms / (FADE * usual).clamp(min=TINY)).clamp(max=1)
            relative = (parameter_rms.clamp(min=RMS_FLOOR) / RMS_USUAL).sqrt()
            rates = self.rates.get([update.group for update in ordered], device)
            distance = (sums[:, 6] / size).sqrt().float() / parameter_rms.clamp(min=RMS_FLOOR)
            pace = torch.cat([_pace(own, part, sums, scalars, step, distance) for part in parts])
            factor = -rates[:, 0] * own.schedule(step, context.total_steps) * relative * fade
            factor = factor * pace.exp()
            shrink = rates[:, 1] * own.decay_factor({"step": step}, context)

            lengths = sums[:, 2].sqrt()
            largest = direction_rms.double() * size.sqrt()
            for part in parts:
                constants = own.constants
                factor[part.rows] *= float(
                    constants.matrix_step if part.is_matrix else constants.vector_step
                )
                if part.is_matrix:
                    largest[part.rows] = _orthogonalize(part, lengths[part.rows], own.iterations)
                else:
                    factor[part.rows] /= direction_rms[part.rows].clamp(min=VECTOR_FLOOR)
            bound = sums[:, 1].sqrt() * (1 + shrink) + factor.abs() * largest
            written = (bound < LARGEST) & (lengths < LARGEST_NORM) & (sums[:, 4] == 0)
            written &= sums.isfinite().all(-1) & mean_size.isfinite() & pace.isfinite()
            numbers = torch.cat([first, factor.unsqueeze(-1), shrink.unsqueeze(-1)], -1).float()
            for part in parts:
                launch.combine(
                    part.table,
                    part.dtypes,
                    numbers[part.rows],
                    written[part.rows],
                    decays[part.is_matrix],
                    sign,
                    is_matrix=part.is_matrix,
                )
            after = {"step": step, "scalars": torch.stack([mean_size, averaged, pace], dim=-1)}
            self.write_numbers(ordered, after, written)
        self.judge(ordered, written)
        return []

    def _parts(self, updates: Sequence[PendingUpdate], block: int) -> list[_Part]:
        parts: list[_Part] = []
        begin = 0
        for dtypes, group in by_dtypes(updates).items():
            for matrices in (True, False):
                chosen = [
                    update
                    for update in group
                    if is_stepped_as_matrix(update.parameter, update.state) == matrices
                ]
                if not chosen:
                    continue
                scratch: list[Tensor] = []
                last = [update.state["v"] for update in chosen]
                if matrices:
                    chosen, scratch = _with_scratch(chosen)
                    last = [own for memory in scratch for own in memory.unbind()]
                tensors = [
                    [
                        update.gradient,
                        update.parameter,
                        update.state["m"],
                        update.state["average"],
                        own,
                    ]
                    for update, own in zip(chosen, last, strict=True)
                ]
                table = self.table((dtypes, matrices), block, tensors)
                rows = slice(begin, begin + len(chosen))
                parts.append(_Part(chosen, dtypes, rows, scratch, table))
                begin = rows.stop
        return parts


def _pace(
    rule: OrthogonalMomentum,
    part: _Part,
    sums: Tensor,
    scalars: Tensor,
    step: Tensor,
    distance: Tensor,
) -> Tensor:
    """The new pace of the tensors of a part, `[n]`; the arguments after it are of all tensors."""
    gradient, momentum, mixed = (sums[part.rows, k].sqrt() for k in (0, 5, 2))
    cosine = cosine_from_lengths(gradient, momentum, mixed, rule.kept_in_lookahead(part.is_matrix))
    before = scalars[part.rows, 2]
    return next_pace(
        before,
        cosine.to(before.dtype),
        step[part.rows],
        distance=distance[part.rows].to(before.dtype) if part.is_matrix else None,
        constants=rule.constants.pace,
    )


def _pairs(*betas: float) -> tuple[float, ...]:
    return tuple(number for beta in betas for number in (beta, 1 - beta))


def _with_scratch(
    updates: Sequence[PendingUpdate],
) -> tuple[list[PendingUpdate], list[Tensor]]:
    """Matrices, those of one shape side by side, and memory for each shape."""
    by_shape: dict[tuple[int, int], list[PendingUpdate]] = {}
    for update in updates:
        by_shape.setdefault(matrix_shape(update.parameter.shape), []).append(update)
    device = updates[0].parameter.device
    scratch = [
        torch.empty((len(members), *shape), dtype=torch.float32, device=device)
        for shape, members in by_shape.items()
    ]
    return [update for members in by_shape.values() for update in members], scratch


def _orthogonalize(part: _Part, lengths: Tensor, iterations: int) -> Tensor:
    """Replace the look-aheads by their directions; return the largest number of each, `[n]`.

    Args:
        part: matrices.
        lengths: Euclidean norms of their look-aheads, `[n]`, float64.
        iterations: of Newton-Schulz.
    """
    largest: list[Tensor] = []
    counts = [len(memory) for memory in part.scratch]
    scales = lengths.new_tensor([direction_scale(u.parameter.shape) for u in part.updates]).float()
    for memory, norms, own in zip(
        part.scratch, lengths.split(counts), scales.split(counts), strict=True
    ):
        memory /= one_where_zero(norms).float()[:, None, None]
        torch.mul(orthogonalize_unit(memory, iterations), own[:, None, None], out=memory)
        largest.append(memory.abs().amax((1, 2)))
    return torch.cat(largest).double()
