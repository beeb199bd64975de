"""One small LSTM per parameter tensor that steers the step size and the mix of a strong base.

What is learned is a schedule more than a direction: as the per-tensor networks of Wichrowska et al.
2017 ("Learned optimizers that scale and generalize", arXiv 1703.04813) and of VeLO (Metz et al.
2022, arXiv 2211.09760), but over hand-made directions in place of a network per coordinate, so that
state and cost stay close to Adam's. The untrained rule is its base; training can only bend it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from learned_opt.rules.base import Context, Gates, State, UpdateRule
from learned_opt.rules.features import bias_correction
from learned_opt.rules.lstm_cell import LSTMCell, record_gates
from learned_opt.rules.tensor_directions import (
    BETA_FAST,
    BETA_SLOW,
    BETA_SQUARE,
    TensorDirections,
)

WARM_UP = 0.03
"""The share of the planned steps over which the step grows to its full size."""

LAST = 0.01
"""What the cosine ends at, so that steps past the planned number still move."""

DIRECTION_FLOOR = 0.03
"""A direction over sqrt(v) is divided by its RMS, or by this where that is smaller: where a tensor
has gradients in few coordinates, or hardly any, its steps must not be blown up without bound."""

RMS_FLOOR = 1e-3
"""Added to the RMS of parameters in logarithms, for tensors that start at zero."""

BETA_LOG = 0.95
"""Decay of the mean of log gradient RMS."""

LOG_RANGE = (-6.0, 4.0)
"""Bounds on the logarithm of what the LSTM multiplies the step with."""

TINY = 1e-15
"""Added to norms that something is divided by; in float32 its square does not underflow."""

FEATURES: tuple[tuple[str, float, float], ...] = (
    ("log gradient RMS minus its running mean", 0.0, 1.0),
    ("cosine of gradient and m9", 0.0, 2.0),
    ("cosine of gradient and m99", 0.0, 2.0),
    ("cosine of gradient and the last Adam direction", 0.0, 2.0),
    ("log RMS of m9 / sqrt v", -1.0, 1.0),
    ("log RMS of m99 / sqrt v", -1.5, 1.0),
    ("log of step size over parameter RMS", -4.0, 0.5),
    ("log of parameter RMS over its initial value", 0.0, 1.0),
    ("t / T", 0.5, 2.0),
    ("log t", 4.5, 0.5),
    ("log T", 6.0, 0.5),
    ("mean over tensors of the cosine of gradient and m9", 0.0, 2.0),
    ("is a vector or a scalar", 0.0, 1.0),
    ("log size", 6.0, 0.3),
    ("a loss is given", 0.0, 1.0),
    ("log loss, fast mean over slow mean", 0.0, 2.0),
    ("log loss, fast mean over first", 0.0, 0.5),
    ("log loss, fast mean over best", 0.0, 2.0),
)
"""What the LSTM reads of a tensor: name, shift, scale. (x - shift) * scale is clamped to +-4."""


class StepSizeLSTM(UpdateRule):
    """delta_t = -s_t exp(lm_t) u_t, with RMS(u_t) = 1 over each tensor.

    The schedule s is a linear warm-up and a cosine over the planned steps. An LSTM per tensor, its
    weights shared by all, reads `FEATURES`, and a linear head, zero before training, gives y:

        lm = clamp(A + 2 y_0),  A <- clamp(A + 0.1 y_1)
        u ~ (1 + y_2 / 2) d + (y_3 d99 + y_4 m + y_5 g + max(y_6, 0) p) / 2

    d and d99 are Adam's directions m9 / sqrt(v) and m99 / sqrt(v), m is m9, g the gradient over
    sqrt(v), p the parameter (so that y_6 is weight decay): each over its RMS in the tensor.
    Gradients may have any scale, and so may the loss. Coordinates that never had a gradient do not
    decay; a tensor in which none had is idle and keeps all its state but `step`.

    The state of a tensor, besides `step`: `m9`, `m99`, `v`, `[*param]`; `h` and `c` of the LSTM,
    `[H]`; and `scalars`, `[8]`: A, the RMS of the parameter at first, the running mean of log
    gradient RMS, how many losses were seen, and of the loss the fast and the slow running mean,
    the first value and the least fast mean.

    Without a loss, what the LSTM reads of it is 0. Where two losses are not both positive,
    2 (a - b) / (|a| + |b|) stands in for the logarithm of their ratio.

    Args:
        hidden_size: units of the LSTM.
        parameter_scale: make the base step proportional to the tensor's RMS, times
            max(RMS p, 0.01) / 0.1; at 0.1, as of usual initial weights, nothing changes.
    """

    default_lr = 3e-3
    needs = frozenset({"total_steps"})

    def __init__(self, *, hidden_size: int = 16, parameter_scale: bool = False) -> None:
        super().__init__(hidden_size=hidden_size, parameter_scale=parameter_scale)
        if hidden_size < 1:
            raise ValueError(f"hidden_size must be at least 1, got {hidden_size}")
        self.hidden_size = hidden_size
        self.parameter_scale = parameter_scale
        self.lstm = LSTMCell(len(FEATURES), hidden_size)
        self.head = nn.Linear(hidden_size, 7, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        _, shift, scale = zip(*FEATURES, strict=True)
        self._shift: Tensor
        self._scale: Tensor
        self.register_buffer("_shift", torch.tensor(shift, dtype=torch.float32), persistent=False)
        self.register_buffer("_scale", torch.tensor(scale, dtype=torch.float32), persistent=False)

    def init_tensor_state(self, parameter: Tensor) -> State:
        """Zeros, but for the RMS of the parameter among the `scalars`; see the class."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=self.dtype, device=parameter.device)

        norm = torch.linalg.vector_norm(parameter.detach().to(self.dtype)).reshape(1)
        rms = norm / math.sqrt(max(parameter.numel(), 1))
        return {
            **{key: zeros(*parameter.shape) for key in ("m9", "m99", "v")},
            **{key: zeros(self.hidden_size) for key in ("h", "c")},
            "scalars": torch.cat([zeros(1), rms, zeros(6)]),
        }

    def state_bytes_per_parameter(self) -> int:
        """Bytes of state that one coordinate costs (what a tensor keeps as a whole apart)."""
        return 3 * self.dtype.itemsize

    def update(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context,
        gates: Gates | None = None,
    ) -> tuple[list[Tensor], list[State]]:
        """See the class.

        Where `gates` is given, the gates of the LSTM, `[n, H]`, are written into it.
        """
        if not gradients:
            return [], []
        if context.total_steps is None:
            raise ValueError("StepSizeLSTM steps by the planned number of steps, and there is none")
        planned = context.total_steps.to(self.dtype)
        tensors = [
            TensorDirections(gradient, parameter, state["m9"], state["m99"], state["v"])
            for gradient, parameter, state in zip(gradients, parameters, states, strict=True)
        ]
        # All that concerns tensors as wholes is computed for all of them together: `[n]`.
        norms = torch.stack([tensor.norms for tensor in tensors])
        products = torch.stack([tensor.products for tensor in tensors])
        step, *old = (
            torch.stack([state[key] for state in states]) for key in ("step", "h", "c", "scalars")
        )
        old_h, old_c, scalars = old
        size = torch.stack([step.new_full((), max(g.numel(), 1)) for g in gradients])
        is_vector = torch.stack([step.new_full((), float(p.dim() <= 1)) for p in parameters])
        progress = ((step - 1) / planned).clamp(0, 1)

        per_root = size.rsqrt()
        rms = norms * per_root.unsqueeze(-1) + TINY
        rms_g, rms_p, rms_m9 = rms[:, 0], rms[:, 4], rms[:, 7]
        cosines = products / (norms[:, :1] + TINY) / (norms[:, 1:4] + TINY)
        # The bias corrections: where a direction's own length counts, it is m9_hat / sqrt(v_hat).
        root = bias_correction(step, BETA_SQUARE).sqrt()
        to_hat = root / bias_correction(step, BETA_FAST)
        to_hat99 = root / bias_correction(step, BETA_SLOW)
        hat, hat99, hat_g = rms[:, 5] * to_hat, rms[:, 6] * to_hat99, rms[:, 8] * root
        schedule = (step / (WARM_UP * planned).clamp(min=1)).clamp(max=1) * (
            LAST + (1 - LAST) * 0.5 * (1 + torch.cos(math.pi * progress))
        )
        if self.parameter_scale:
            schedule = schedule * rms_p.clamp(min=0.01) / 0.1

        log_scale, first_rms, mean_log = scalars[:, :3].unbind(-1)
        is_first = norms[:, 1] == 0
        log_g = rms_g.log()
        surprise = torch.where(is_first, 0.0, log_g - mean_log).clamp(-4, 4)
        mean_log = torch.where(is_first, log_g, mean_log + (1 - BETA_LOG) * surprise)
        log_rms = (rms_p + RMS_FLOOR).log()
        losses, ratios = _follow_loss(scalars[:, 3:], context.loss)
        features = torch.stack(
            [
                surprise,
                *cosines.unbind(-1),
                hat.log(),
                hat99.log(),
                (self.default_lr * schedule).log() + log_scale - log_rms,
                log_rms - (first_rms + RMS_FLOOR).log(),
                progress,
                step.log(),
                planned.log().expand_as(step),
                # A tensor whose gradient is not finite is skipped, and must not spoil the others.
                cosines[:, 0].nan_to_num().mean().expand_as(step),
                is_vector,
                size.log(),
                torch.full_like(step, float(context.loss is not None)),
                *ratios.unbind(-1),
            ],
            dim=-1,
        )
        features = ((features - self._shift) * self._scale).clamp(-4, 4)
        h, c, values = self.lstm(features, old_h, old_c)
        if gates is not None:
            record_gates(gates, "lstm", values)
        y = self.head(h)

        log_factor = (log_scale + 2 * y[:, 0]).clamp(*LOG_RANGE)
        log_scale = (log_scale + 0.1 * y[:, 1]).clamp(*LOG_RANGE)
        bends = 0.5 * y[:, 2:]
        weights = torch.stack(
            [
                bends[:, 4].clamp(min=0) / rms_p.clamp(min=RMS_FLOOR),
                (1 + bends[:, 0]) * to_hat / hat.clamp(min=DIRECTION_FLOOR),
                bends[:, 1] * to_hat99 / hat99.clamp(min=DIRECTION_FLOOR),
                bends[:, 2] / rms_m9,
                bends[:, 3] * root / hat_g.clamp(min=DIRECTION_FLOOR),
            ],
            dim=-1,
        )
        mixed = [tensor.mix(row) for tensor, row in zip(tensors, weights.unbind(), strict=True)]
        rms_mix = per_root * torch.stack([torch.linalg.vector_norm(value) for value in mixed])
        # 1, but where d is below its floor. Not blown up more than 100-fold where parts cancel.
        target = hat / hat.clamp(min=DIRECTION_FLOOR)
        length = target / torch.maximum(rms_mix, 0.01 * target + TINY)
        length = -schedule * log_factor.exp() * length
        deltas = [factor * value for factor, value in zip(length.unbind(), mixed, strict=True)]

        scalars = torch.cat([torch.stack([log_scale, first_rms, mean_log], -1), losses], dim=-1)
        idle = ((norms[:, 0] == 0) & is_first).unsqueeze(-1)
        new = [
            torch.where(idle, before, after).unbind()
            for before, after in zip(old, (h, c, scalars), strict=True)
        ]
        new_states: list[State] = [
            {
                "step": state["step"],
                "m9": tensor.m9,
                "m99": tensor.m99,
                "v": tensor.v,
                "h": new_h,
                "c": new_c,
                "scalars": new_scalars,
            }
            for state, tensor, new_h, new_c, new_scalars in zip(states, tensors, *new, strict=True)
        ]
        return deltas, new_states

    def gates(
        self, gradient: Tensor, parameter: Tensor, state: State, context: Context | None = None
    ) -> Gates:
        """Gates of the tensor's LSTM, `[1, ..., 1, H]`: all of its coordinates share them.

        Asked about one tensor alone, the mean cosine over all tensors is its own.

        Raises:
            ValueError: the context lacks the planned number of steps.
        """
        recorded: Gates = {}
        advanced = {**state, "step": state["step"] + 1}
        gradient, parameter = gradient.to(self.dtype), parameter.to(self.dtype)
        self.update([gradient], [parameter], [advanced], context or Context(), recorded)
        shape = (*([1] * gradient.dim()), self.hidden_size)
        return {key: value.reshape(shape) for key, value in recorded.items()}


def _follow_loss(old: Tensor, loss: Tensor | None) -> tuple[Tensor, Tensor]:
    """Update the part of `scalars` about the loss, `[n, 5]`, and give the features, `[n, 3]`."""
    if loss is None:
        return old, torch.zeros_like(old[:, 2:])
    seen, fast, slow, first, best = old.unbind(-1)
    is_first = seen == 0
    loss = loss.to(old.dtype).reshape(()).expand_as(seen)
    fast = torch.where(is_first, loss, torch.lerp(fast, loss, 1 - BETA_FAST))
    slow = torch.where(is_first, loss, torch.lerp(slow, loss, 1 - BETA_SLOW))
    first = torch.where(is_first, loss, first)
    best = torch.where(is_first, loss, torch.minimum(best, fast))
    new = torch.stack([seen + 1, fast, slow, first, best], dim=-1)
    others, fast = new[:, 2:], new[:, 1:2]
    positive = (others > 0) & (fast > 0)
    logarithm = torch.where(positive, fast, 1.0).log() - torch.where(positive, others, 1.0).log()
    difference = 2 * (fast - others) / (fast.abs() + others.abs() + TINY)
    return new, torch.where(positive, logarithm, difference)
