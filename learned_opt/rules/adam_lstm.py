"""An LSTM per coordinate that scales Adam's step and corrects its direction.

Untrained, the rule is close to Adam with a decaying step, so it is safe where it has learned
nothing. Its LSTM multiplies each coordinate's step by a bounded factor and adds a correction to its
direction. Most inputs do not depend on the scale of the loss. They follow RNNprop (Lv et al. 2017,
arXiv 1703.03633: momentum and gradient over their root mean square) and the many time scales of
Wichrowska et al. 2017 (arXiv 1703.04813).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from learned_opt.rules.base import Context, Gates, State
from learned_opt.rules.coordinate_rule import CoordinateRule
from learned_opt.rules.parts.features import (
    bias_correction,
    moving_average,
    moving_square,
    safe_sqrt,
)
from learned_opt.rules.parts.lstm_cell import LSTMCell, record_gates

SMALLEST = 1e-9
"""Gradients far below this do not move a coordinate: the LSTM cannot tell their size."""

FADE = 1e-5
"""The correction fades where the gradient and the shortest momentum are below this share of the
root mean square: with a decay of 0.5, after 17 steps without a gradient."""

AGE_SCALES = (1.0, 4.0, 15.0, 50.0)
"""The LSTM reads the step t as t / (t + scale), for each of these scales."""


class AdamLSTM(CoordinateRule):
    """Adam's step, scaled and corrected for each coordinate.

        delta_t = -exp(a_t) known_t (d_t + direction_gain * fade_t * b_t) / (1 + t / decay_steps)

    d is Adam's direction, m_hat / sqrt(v_hat). Two factors are 1 in ordinary training. `fade` is at
    most max(|g|, |m|) / (1e-5 sqrt(v_hat)), with the shortest momentum m, so that without a
    gradient the update dies with that momentum. `known` is sqrt(v_hat) / (sqrt(v_hat) + 1e-9):
    gradients far below that move nothing, since the LSTM cannot tell their size. A linear head on
    an LSTM gives y = (y_a, y_b):

        a = log_range * tanh(log_gain * y_a / log_range),  b = y_b

    so exp(a) lies within e^+-log_range. With y = 0 the rule is Adam with a decaying step.

    The LSTM reads, per coordinate: momenta of several decays over the fast root mean square;
    gradient and Adam's momentum over the slow one (the first clamped to +-3); the logarithm of
    the ratio of both mean squares; log |g| and the slow log mean square, weakly scaled; the age t.

    State per coordinate: `h` and `c` of the LSTM, `[H]`; the momenta `m`, `[len(betas)]`; the mean
    squares `fast` and `slow`.

    Args:
        hidden_size: units of the LSTM.
        betas: decays of the momenta; the one nearest 0.9 gives Adam's direction.
        fast_beta: decay of the fast mean square.
        slow_beta: decay of the slow mean square, Adam's v.
        log_range: bound on |a|.
        log_gain: factor on the head's output for a.
        direction_gain: factor on the head's output for b.
        decay_steps: the step is halved after this many steps; infinity for no decay.
        differentiate_inputs: let second derivatives pass through all inputs of the LSTM. By default
            they pass through the momenta only: through logarithms and normalisers of small
            gradients they explode.

    Examples:
        >>> optimizer = LearnedOptimizer(model.parameters(), rule=AdamLSTM(hidden_size=8))
    """

    default_lr = 0.03
    second_order = True
    idle_key = "slow"

    def __init__(
        self,
        *,
        hidden_size: int = 12,
        betas: Sequence[float] = (0.5, 0.9, 0.99),
        fast_beta: float = 0.95,
        slow_beta: float = 0.999,
        log_range: float = 1.0,
        log_gain: float = 5.0,
        direction_gain: float = 1.5,
        decay_steps: float = 100.0,
        differentiate_inputs: bool = False,
    ) -> None:
        betas = tuple(betas)
        super().__init__(
            hidden_size=hidden_size,
            betas=betas,
            fast_beta=fast_beta,
            slow_beta=slow_beta,
            log_range=log_range,
            log_gain=log_gain,
            direction_gain=direction_gain,
            decay_steps=decay_steps,
            differentiate_inputs=differentiate_inputs,
        )
        if hidden_size < 1:
            raise ValueError(f"hidden_size must be at least 1, got {hidden_size}")
        if not betas:
            raise ValueError("betas must not be empty")
        for name, value in [*(("betas", b) for b in betas), ("fast_beta", fast_beta)]:
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        if not 0 <= slow_beta < 1:
            raise ValueError(f"slow_beta must be in [0, 1), got {slow_beta}")
        for name, value in (("log_range", log_range), ("decay_steps", decay_steps)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.betas = betas
        self.main = min(range(len(betas)), key=lambda k: abs(betas[k] - 0.9))
        self.shortest = min(range(len(betas)), key=lambda k: betas[k])
        self.fast_beta = fast_beta
        self.slow_beta = slow_beta
        self.log_range = log_range
        self.log_gain = log_gain
        self.direction_gain = direction_gain
        self.decay_steps = decay_steps
        self.differentiate_inputs = differentiate_inputs
        self.hidden_size = hidden_size
        self.lstm = LSTMCell(len(betas) + 5 + len(AGE_SCALES), hidden_size)
        self.head = nn.Linear(hidden_size, 2, dtype=torch.float32)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def coordinate_state(self) -> dict[str, tuple[int, ...]]:
        """`h` and `c`, the momenta `m`, the mean squares `fast` and `slow`."""
        size = self.hidden_size
        return {"h": (size,), "c": (size,), "m": (len(self.betas),), "fast": (), "slow": ()}

    def held_state(self) -> frozenset[str]:
        """`h` and `c`: `LSTMCell` holds them."""
        return frozenset({"h", "c"})

    def update_coordinates(
        self,
        gradient: Tensor,
        parameter: Tensor,
        state: State,
        context: Context,
        gates: Gates | None = None,
    ) -> tuple[Tensor, State]:
        """See the class."""
        step = state["step"]
        seen_gradient = gradient if self.differentiate_inputs else gradient.detach()
        fast = moving_square(state["fast"], seen_gradient, self.fast_beta)
        slow = moving_square(state["slow"], seen_gradient, self.slow_beta)
        momenta = [
            moving_average(state["m"][..., k], gradient, beta) for k, beta in enumerate(self.betas)
        ]
        corrected = [
            m / bias_correction(step, beta) for m, beta in zip(momenta, self.betas, strict=True)
        ]
        per_fast, log_fast = _inverse_root(fast / bias_correction(step, self.fast_beta))
        slow_hat = slow / bias_correction(step, self.slow_beta)
        per_slow, log_slow = _inverse_root(slow_hat)
        direction = corrected[self.main] * per_slow

        seen = (slow > 0).to(gradient.dtype)
        features = torch.stack(
            [
                *(m * per_fast for m in corrected),
                (seen_gradient * per_slow).clamp(-3, 3),
                direction if self.differentiate_inputs else direction.detach(),
                0.25 * (log_fast - log_slow),
                seen * (1 + 0.2 * (seen_gradient.abs() + 1e-9).log()),
                seen * (1 + 0.1 * log_slow),
                *(seen * (step / (step + scale)) for scale in AGE_SCALES),
            ]
        )
        h, c, values = self.lstm(
            features.mT,
            state["h"],
            state["c"],
            idle=state.get("idle"),
            with_gates=gates is not None,
        )
        if gates is not None:
            record_gates(gates, "lstm", values)
        scale, bend = torch.addmm(self.head.bias.unsqueeze(-1), self.head.weight, h.mT)
        factor = torch.exp(self.log_range * torch.tanh(self.log_gain * scale / self.log_range))
        root = safe_sqrt(slow_hat)
        size = factor / (1 + step / self.decay_steps) * (root / (root + SMALLEST))
        longest = torch.maximum(gradient.abs(), corrected[self.shortest].abs())
        fade = (longest * per_slow / FADE).clamp(max=1)
        if not self.differentiate_inputs:
            fade = fade.detach()
        delta = -size * (direction + self.direction_gain * fade * bend)
        return delta, {"h": h, "c": c, "m": torch.stack(momenta).mT, "fast": fast, "slow": slow}


def _inverse_root(mean_square: Tensor) -> tuple[Tensor, Tensor]:
    """1 / sqrt(v), 0 where v is 0 (no gradient ever), and log v, bounded below."""
    root = safe_sqrt(mean_square)
    seen = root > 0
    inverse = torch.where(seen, 1 / (torch.where(seen, root, 1.0) + 1e-12), 0.0)
    return inverse, torch.where(seen, (mean_square + 1e-24).log(), math.log(1e-24))
