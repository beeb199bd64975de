"""The step of step-size-lstm in two passes over all tensors, with the network in torch between.

The network's part is the rule's own (`StepSizeLSTM.coefficients`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from learned_opt.backends.fused_step import expect
from learned_opt.backends.plain_memory import PlainMemoryStep
from learned_opt.backends.step_in_c import LARGEST, are_float32, rates
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.rules.step_size_lstm import Memory, StepSizeLSTM
from learned_opt.rules.tensor_directions import PAIRS, SQUARES, SUMS, make_statistics
from learned_opt.updates import PendingUpdate

FIRST, SECOND = (np.array(indices) for indices in zip(*PAIRS, strict=True))
TIMES = np.where(FIRST == SECOND, 1.0, 2.0)
"""How often a pair of directions counts in a square."""


class StepSizeLSTMInTwoPasses(PlainMemoryStep, ABC):
    """Abstract: all but the two passes over the tensors, which subclasses add."""

    shares_signals = True
    like_parameter = ("m9", "m99", "v")

    @abstractmethod
    def sums(self, updates: Sequence[PendingUpdate], sign: float) -> NDArray[np.float64]:
        """The sums over each tensor, `[n, 24]`.

        Args:
            updates: of n tensors.
            sign: what gradients are multiplied by, 1 or -1.

        Returns:
            The sums of `tensor_directions.SUMS`, and that of v after the step.
        """

    @abstractmethod
    def move(
        self,
        updates: Sequence[PendingUpdate],
        sign: float,
        weights: NDArray[np.float32],
        shrink: NDArray[np.float32],
    ) -> None:
        """Move parameters and averages in place, after `sums` of the same tensors.

        Args:
            updates: of n tensors.
            sign: see `sums`.
            weights: of the parameter and the directions in the order of `Mix`, with the learning
                rate, `[n, 5]`.
            shrink: subtract this times the parameter, `[n]`.
        """

    @abstractmethod
    def read_memory(self, updates: Sequence[PendingUpdate], hidden_size: int) -> Memory:
        """The small state of n tensors, after `sums` of the same ones."""

    @abstractmethod
    def write_memory(self, updates: Sequence[PendingUpdate], memory: Memory) -> None:
        """Write the small state of n tensors, after `sums` of the same ones."""

    @torch.inference_mode()
    def step(
        self,
        rule: UpdateRule,
        updates: Sequence[PendingUpdate],
        context: Context,
        maximize: bool,
    ) -> list[PendingUpdate]:
        """See `FusedStep.step`; the tensors are stepped together or left together."""
        own = expect(rule, StepSizeLSTM)
        if maximize and context.loss is not None:
            context = replace(context, loss=-context.loss)
        sign = -1.0 if maximize else 1.0
        if not _has_memory(updates, own.hidden_size):
            return list(updates)
        sums = self.sums(updates, sign)
        lr, decay = rates(updates).T
        # NaN is not below it.
        if not ((np.abs(sums) < LARGEST).all() and are_float32(lr, decay).all()):
            return list(updates)
        before = self.read_memory(updates, own.hidden_size)
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
        self.move(updates, sign, weights.astype(np.float32), (lr * decay).astype(np.float32))
        self.write_memory(updates, after)
        return []


def _has_memory(updates: Sequence[PendingUpdate], hidden_size: int) -> bool:
    """Whether the small state of all tensors has the rule's shapes."""
    shapes = {"step": (), "h": (hidden_size,), "c": (hidden_size,), "scalars": (8,)}
    states = [update.state for update in updates]
    return all({state[key].shape for state in states} == {shape} for key, shape in shapes.items())
