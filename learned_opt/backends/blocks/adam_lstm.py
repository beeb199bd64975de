"""The step of adam-lstm in blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from learned_opt.backends.blocks.coordinate_step import Compute, CoordinateStepInBlocks
from learned_opt.backends.blocks.lstm_cell import (
    PackedCell,
    pack_weights,
    step_cell,
    tangent_of_half_,
)
from learned_opt.backends.blocks.rows import Rows
from learned_opt.backends.fused_step import expect
from learned_opt.rules.adam_lstm import AGE_SCALES, FADE, SMALLEST, AdamLSTM
from learned_opt.rules.base import UpdateRule


class AdamLSTMInBlocks(CoordinateStepInBlocks):
    """The step of adam-lstm in blocks: half of the time of the rule's own code without C."""

    def layout(self, rule: UpdateRule) -> Mapping[str, int]:
        """The inputs of the LSTM right before its `h`."""
        own = expect(rule, AdamLSTM)
        units, betas = own.hidden_size, len(own.betas)
        state = {"h": units, "c": units, "m": betas, "fast": 1, "slow": 1}
        work = {"corrected": betas, "squares": 2, "inverse": 2, "root": 2, "spare": 2}
        others = {"active": 1, "known": 1, "fade": 1, "head": 2}
        given = {"parameter": 1, "gradient": 1, "delta": 1}
        return {"inputs": betas + 6, **state, **given, "gates": 5 * units, **work, **others}

    def prepare(self, rule: UpdateRule, step: float, loss: float | None) -> Compute:
        """Fold inputs that are equal in all coordinates into the weights."""
        own = expect(rule, AdamLSTM)
        of_momenta = [[1 / _correction(beta, step)] for beta in own.betas]
        of_squares = [[1 / _correction(beta, step)] for beta in (own.fast_beta, own.slow_beta)]
        # tanh of half the first output, and the second times the fade.
        gains = torch.tensor(
            [[2 * own.log_gain / own.log_range], [own.direction_gain / FADE]],
            dtype=torch.float64,
            device="cpu",
        )
        numbers = (SMALLEST, own.log_range, -1 / (1 + step / own.decay_steps), 1e-24, 1e-12, 1e-9)
        return _Step(
            own,
            _cell_of_age(own, step),
            (own.head.weight.detach() * gains).float(),
            (own.head.bias.detach().unsqueeze(-1) * gains).float(),
            torch.tensor(of_momenta, dtype=torch.float32, device="cpu"),
            torch.tensor(of_squares, dtype=torch.float32, device="cpu"),
            *torch.tensor(numbers, dtype=torch.float32, device="cpu").unbind(),
        ).compute


def _correction(beta: float, step: float) -> float:
    """See `bias_correction`."""
    return 1.0 if beta == 0 else -math.expm1(step * math.log(beta))


def _cell_of_age(rule: AdamLSTM, step: float) -> PackedCell:
    """The cell at a number of steps, with an input that is 1 or 0 in place of constants.

    Its inputs are the momenta, the clamped gradient, Adam's direction, the logarithm of the ratio
    of the mean squares, and where a coordinate had a gradient, else 0: log |g|, the logarithm of
    the slow mean square, and 1.
    """
    weight, bias = rule.lstm.weight.detach().double(), rule.lstm.bias.detach().double()
    before = len(rule.betas) + 2
    ages = before + 3 + len(AGE_SCALES)
    ratio, gradient, slow = weight[before : before + 3]
    seen = gradient + slow
    for scale, row in zip(AGE_SCALES, weight[before + 3 : ages], strict=True):
        seen = seen + step / (step + scale) * row
    folded = torch.stack([0.25 * ratio, 0.2 * gradient, 0.1 * slow, seen])
    return pack_weights(torch.cat([weight[:before], folded, weight[ages:]]), bias)


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of coordinates that have taken equally many.

    Numbers are tensors, `[]`: torch would make one of a Python float at every use.

    Attributes:
        rule: its settings.
        cell: see `_cell_of_age`.
        weight: of the head, `[2, H]`, with the factors on its outputs.
        bias: likewise, `[2, 1]`.
        per_momentum: one over the bias corrections of the momenta, `[betas, 1]`.
        per_square: the same of the mean squares, `[2, 1]`.
        smallest: see `SMALLEST`.
        log_range: the rule's.
        factor: -1 / (1 + t / decay_steps).
        least_square: added to a mean square, so that it has a logarithm.
        least_root: added to its root, so that it has an inverse.
        least_gradient: added to a magnitude, so that it has a logarithm.
    """

    rule: AdamLSTM
    cell: PackedCell
    weight: Tensor
    bias: Tensor
    per_momentum: Tensor
    per_square: Tensor
    smallest: Tensor
    log_range: Tensor
    factor: Tensor
    least_square: Tensor
    least_root: Tensor
    least_gradient: Tensor

    def compute(self, rows: Rows) -> Tensor | None:
        """See `Compute`."""
        rule, g, h, c = self.rule, rows["gradient"], rows["h"], rows["c"]
        size = torch.abs(g, out=rows["known"])
        # Before the mean squares change, since they tell which coordinates are idle.
        active = torch.add(size, rows["slow"], out=rows["active"])
        self._average(rows)
        corrected = torch.mul(rows["m"], self.per_momentum, out=rows["corrected"])
        square = torch.mul(rows.between("fast", "slow"), self.per_square, out=rows["squares"])
        root = torch.sqrt(square, out=rows["root"])
        inverse = torch.add(root, self.least_root, out=rows["inverse"]).reciprocal_()
        seen = None
        if not float(square.amin()) > 0:
            inverse.mul_(torch.sign(root, out=rows["spare"]))
            seen = rows.part("spare", 1)
        square.add_(self.least_square).log_()
        self._write_inputs(rows, corrected, size, seen)

        slow_root, per_slow = rows.part("root", 1), rows.part("inverse", 1)
        fade = torch.abs(rows.part("corrected", rule.shortest), out=rows["fade"])
        torch.maximum(fade, size, out=fade).mul_(per_slow).clamp_(max=FADE)
        torch.add(slow_root, self.smallest, out=rows["known"])
        known = torch.div(slow_root, rows["known"], out=rows["known"])

        step_cell(self.cell, rows, rows.between("inputs", "h"), h, c)
        torch.addmm(self.bias, self.weight, h, out=rows["head"])
        scale = rows.part("head", 0)
        tangent_of_half_(scale, rows["delta"])
        scale.mul_(self.log_range).exp_().mul_(known).mul_(self.factor)
        delta = torch.mul(rows.part("head", 1), fade, out=rows["delta"])
        delta.add_(rows.part("inputs", len(rule.betas) + 1)).mul_(scale)
        return None if seen is None else active.sign_()

    def _average(self, rows: Rows) -> None:
        """Update momenta and mean squares."""
        rule, g = self.rule, rows["gradient"]
        square = torch.mul(g, g, out=rows.part("spare", 0))
        for name, beta in (("fast", rule.fast_beta), ("slow", rule.slow_beta)):
            rows[name].lerp_(square, 1 - beta)
        for k, beta in enumerate(rule.betas):
            rows.part("m", k).lerp_(g, 1 - beta)

    def _write_inputs(
        self, rows: Rows, corrected: Tensor, size: Tensor, seen: Tensor | None
    ) -> None:
        """Write the inputs of the LSTM; `seen` is 1 or 0, or None if it is 1 in all coordinates."""
        betas = len(self.rule.betas)
        per_fast, per_slow = rows.part("inverse", 0), rows.part("inverse", 1)
        torch.mul(corrected, per_fast, out=rows.part("inputs", 0, betas))
        clamped, direction, ratio, log_gradient, log_slow, one = (
            rows.part("inputs", betas + k) for k in range(6)
        )
        torch.mul(rows["gradient"], per_slow, out=clamped).clamp_(-3, 3)
        torch.mul(rows.part("corrected", self.rule.main), per_slow, out=direction)
        torch.sub(rows.part("squares", 0), rows.part("squares", 1), out=ratio)
        torch.add(size, self.least_gradient, out=log_gradient).log_()
        log_slow.copy_(rows.part("squares", 1))
        one.fill_(1)
        if seen is not None:
            rows.part("inputs", betas + 3, 3).mul_(seen)
