"""One small LSTM per parameter tensor that steers the step size and the mix of a strong base.

It learns a schedule more than a direction, like the per-tensor networks of Wichrowska et al. 2017
("Learned optimizers that scale and generalize", arXiv 1703.04813) and of VeLO (Metz et al. 2022,
arXiv 2211.09760). Hand-made directions take the place of a network per coordinate, so that state
and cost stay close to Adam's. The untrained rule is its base; training can only bend it.

A step has three parts: statistics of each tensor (`measure`), a few coefficients for each tensor
(`StepSizeLSTM.coefficients`, where the network is), and one pass that applies them (`combine`).
Faster code takes the first from sums over the tensors (`measure_sums`, `mix_rms`), and shares the
second.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from learned_opt.rules.base import Context, Gates, State, cast_state
from learned_opt.rules.parts.features import euclidean_norm
from learned_opt.rules.parts.lstm_cell import LSTMCell, record_gates
from learned_opt.rules.parts.step_size_coefficients import Coefficients, combine, warm_up_and_cosine
from learned_opt.rules.parts.step_size_features import (
    FEATURES,
    RMS_FLOOR,
    Scalars,
    read_features,
)
from learned_opt.rules.parts.tensor_directions import (
    Mix,
    ScaledDirections,
    Statistics,
    TensorDirections,
    bias_factors,
    measure,
)
from learned_opt.rules.parts.whole_tensors import LOCAL, WholeTensors
from learned_opt.rules.steered_rule import SteeredRule, SteeredStep

DIRECTION_FLOOR = 0.03
"""Least divisor of a direction over sqrt(v), which is otherwise divided by its RMS. Without it a
tensor with gradients in few coordinates, or with fading ones, would take huge steps in those."""

LOG_RANGE = (-6.0, 4.0)
"""Bounds on the logarithm of the LSTM's factor on the step."""


class Memory(NamedTuple):
    """State of whole tensors: `[n]`, `[n, H]`, `[n, H]` and `[n, 8]`."""

    step: Tensor
    h: Tensor
    c: Tensor
    scalars: Tensor


class Controls(NamedTuple):
    """Outputs of the head, y_0 to y_6, `[n]` each; all 0 before training."""

    step: Tensor
    drift: Tensor
    adam: Tensor
    slow_adam: Tensor
    m9: Tensor
    scaled_gradient: Tensor
    decay: Tensor


class StepSizeLSTM(SteeredRule):
    r"""A learned step size and mix of directions for every tensor.

        delta_t = -s_t exp(lm_t) u_t,  RMS(u_t) = 1 over each tensor

    The schedule s is a linear warm-up and a cosine over the planned steps. An LSTM per tensor, its
    weights shared by all, reads `FEATURES`. A linear head, zero before training, gives y:

        lm = clamp(A + 2 y_0),  A <- clamp(A + 0.1 y_1)
        u ~ (1 + y_2 / 2) d + (y_3 d99 + y_4 m + y_5 g + max(y_6, 0) p) / 2

    d and d99 are Adam's directions m9 / sqrt(v) and m99 / sqrt(v), m is m9, g the gradient over
    sqrt(v), p the parameter (so that y_6 is weight decay): each over its RMS in the tensor.
    Gradients may have any scale, and so may the loss. Coordinates that never had a gradient do not
    decay. A tensor in which none had is idle and keeps all its state but `step`.

    Without a loss, its features are 0. Where two losses are not both positive,
    2 (a - b) / (|a| + |b|) stands in for the logarithm of their ratio.

    State of a tensor, besides `step`: `m9`, `m99`, `v`, `[*param]`; `h` and `c` of the LSTM, `[H]`;
    `scalars`, `[8]`, see `Scalars`.

    Args:
        hidden_size: units of the LSTM.
        parameter_scale: make the base step proportional to the tensor's RMS, times
            max(RMS p, 0.01) / 0.1. At an RMS of 0.1, typical of initial weights, nothing changes.

    Examples:
        >>> optimizer = LearnedOptimizer(model.parameters(), rule="step-size-lstm", total_steps=100)
    """

    default_lr = 3e-3
    needs = frozenset({"total_steps"})
    uses = frozenset({"loss"})
    takes_parts = True
    tensor_state = frozenset({"h", "c", "scalars"})

    def __init__(self, *, hidden_size: int = 16, parameter_scale: bool = False) -> None:
        super().__init__(hidden_size=hidden_size, parameter_scale=parameter_scale)
        if hidden_size < 1:
            raise ValueError(f"hidden_size must be at least 1, got {hidden_size}")
        self.hidden_size = hidden_size
        self.parameter_scale = parameter_scale
        self.lstm = LSTMCell(len(FEATURES), hidden_size)
        self.head = nn.Linear(hidden_size, len(Controls._fields), dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        shift, scale = zip(*FEATURES.values(), strict=True)
        self.feature_shift: Tensor
        self.feature_scale: Tensor
        self.register_buffer(
            "feature_shift", torch.tensor(shift, dtype=torch.float32), persistent=False
        )
        self.register_buffer(
            "feature_scale", torch.tensor(scale, dtype=torch.float32), persistent=False
        )

    def init_tensor_state(self, parameter: Tensor) -> State:
        """Zeros, except for the initial RMS of the parameter in `scalars`."""
        return self.init_part_state(parameter, parameter.shape, None, LOCAL)

    def init_part_state(
        self,
        parameter: Tensor,
        shape: Sequence[int],
        direction: str | None,
        tensors: WholeTensors,
    ) -> State:
        """See `init_tensor_state`; the RMS is that of the whole tensor."""

        def zeros(*shape: int, dtype: torch.dtype = self.wide_dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=parameter.device)

        norm = tensors.norms(euclidean_norm(parameter.detach().to(self.wide_dtype)).reshape(1))
        rms = norm / math.sqrt(max(math.prod(shape), 1))
        return {
            **{key: zeros(*parameter.shape, dtype=self.dtype) for key in ("m9", "m99", "v")},
            **{key: zeros(self.hidden_size) for key in ("h", "c")},
            "scalars": torch.cat([zeros(1), rms, zeros(6)]),
        }

    def state_bytes_per_parameter(self) -> int:
        """Bytes of state per coordinate; `h`, `c` and `scalars` of each tensor come on top."""
        return 3 * self.dtype.itemsize

    def update(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context,
        gates: Gates | None = None,
    ) -> tuple[list[Tensor], list[State]]:
        """See the class. The gates of the LSTM, `[n, H]`, are written into `gates` if given."""
        if not gradients:
            return [], []
        tensors, before = _read(gradients, parameters, states)
        whole = context.tensors or LOCAL
        statistics = measure(tensors, whole)
        coefficients, after = self.coefficients(statistics, before, context, gates)
        deltas = combine(tensors, statistics.size, coefficients, whole)
        h, c, scalars = (value.unbind() for value in after[1:])
        new_states: list[State] = []
        for k, (state, tensor) in enumerate(zip(states, tensors, strict=True)):
            averages = {"m9": tensor.m9, "m99": tensor.m99, "v": tensor.v}
            network = {"h": h[k], "c": c[k], "scalars": scalars[k]}
            new_states.append({"step": state["step"], **averages, **network})
        return deltas, new_states

    def coefficients(
        self, statistics: Statistics, memory: Memory, context: Context, gates: Gates | None = None
    ) -> tuple[Coefficients, Memory]:
        """Features -> LSTM -> controls -> coefficients, for n tensors at once.

        Returns:
            The coefficients, and the memory after the step; of idle tensors it is as before.

        Raises:
            ValueError: the context lacks the planned number of steps.
        """
        if context.total_steps is None:
            raise ValueError("StepSizeLSTM needs the planned number of steps, got none")
        planned = context.total_steps.to(self.dtype)
        step, rms = memory.step, statistics.rms
        schedule = warm_up_and_cosine(step, planned)
        if self.parameter_scale:
            schedule = schedule * rms.parameter.clamp(min=0.01) / 0.1
        unbias = bias_factors(step)
        scaled_rms = ScaledDirections(
            adam=rms.adam * unbias.adam,
            slow_adam=rms.slow_adam * unbias.slow_adam,
            gradient=rms.scaled_gradient * unbias.gradient,
        )

        features, scalars = read_features(
            statistics,
            scaled_rms,
            Scalars(*memory.scalars.unbind(-1)),
            step,
            planned,
            self.default_lr * schedule,
            context.loss,
        )
        features = ((features - self.feature_shift) * self.feature_scale).clamp(-4, 4)
        h, c, gate_values = self.lstm(features, memory.h, memory.c)
        if gates is not None:
            record_gates(gates, "lstm", gate_values)
        y = Controls(*self.head(h).unbind(-1))

        log_factor = (scalars.log_scale + 2 * y.step).clamp(*LOG_RANGE)
        log_scale = (scalars.log_scale + 0.1 * y.drift).clamp(*LOG_RANGE)
        divisor = ScaledDirections(*(value.clamp(min=DIRECTION_FLOOR) for value in scaled_rms))
        mix = Mix(
            parameter=(0.5 * y.decay).clamp(min=0) / rms.parameter.clamp(min=RMS_FLOOR),
            adam=(1 + 0.5 * y.adam) * unbias.adam / divisor.adam,
            slow_adam=0.5 * y.slow_adam * unbias.slow_adam / divisor.slow_adam,
            m9=0.5 * y.m9 / rms.m9,
            scaled_gradient=0.5 * y.scaled_gradient * unbias.gradient / divisor.gradient,
        )
        coefficients = Coefficients(
            step_size=schedule * log_factor.exp(), target=scaled_rms.adam / divisor.adam, mix=mix
        )
        after = h, c, torch.stack(scalars._replace(log_scale=log_scale), dim=-1)
        idle = statistics.is_idle.unsqueeze(-1)
        kept = [torch.where(idle, old, new) for old, new in zip(memory[1:], after, strict=True)]
        return coefficients, Memory(step, *kept)

    def steered_step(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context,
    ) -> SteeredStep:
        """See `SteeredRule`. The parts of the mix are named as in `Mix`."""
        if self.dtype != self.wide_dtype:
            wide = copy.deepcopy(self).to(self.wide_dtype)
            wide_states = [cast_state(state, self.wide_dtype) for state in states]
            return wide.steered_step(gradients, parameters, wide_states, context)
        self.check_context(context)
        advanced = [{**state, "step": state["step"] + 1} for state in states]
        gradients = [gradient.to(self.dtype) for gradient in gradients]
        parameters = [parameter.to(self.dtype) for parameter in parameters]
        tensors, before = _read(gradients, parameters, advanced)
        statistics = measure(tensors)
        gates: Gates = {}
        coefficients, _ = self.coefficients(statistics, before, context, gates)
        assert context.total_steps is not None  # checked above
        schedule = warm_up_and_cosine(before.step, context.total_steps.to(self.dtype))
        rms = statistics.rms._asdict()
        return SteeredStep(
            deltas=combine(tensors, statistics.size, coefficients),
            gates=gates,
            schedule=schedule,
            multiplier=coefficients.step_size / schedule,
            mix={name: weight * rms[name] for name, weight in coefficients.mix._asdict().items()},
        )

    def gates(
        self, gradient: Tensor, parameter: Tensor, state: State, context: Context | None = None
    ) -> Gates:
        """Gates of the tensor's LSTM, `[1, ..., 1, H]`: all of its coordinates share them.

        Asked about one tensor alone, the mean cosine over all tensors is its own.

        Raises:
            ValueError: the context lacks the planned number of steps.
        """
        if self.dtype != self.wide_dtype:
            wide = copy.deepcopy(self).to(self.wide_dtype)
            return wide.gates(gradient, parameter, cast_state(state, self.wide_dtype), context)
        recorded: Gates = {}
        advanced = {**state, "step": state["step"] + 1}
        gradient, parameter = gradient.to(self.dtype), parameter.to(self.dtype)
        self.update([gradient], [parameter], [advanced], context or Context(), recorded)
        shape = (*([1] * gradient.dim()), self.hidden_size)
        return {key: value.reshape(shape) for key, value in recorded.items()}


def _read(
    gradients: Sequence[Tensor], parameters: Sequence[Tensor], states: Sequence[State]
) -> tuple[list[TensorDirections], Memory]:
    """The directions of each tensor, and the network's memory before the step."""
    tensors = [
        TensorDirections(gradient, parameter, state["m9"], state["m99"], state["v"])
        for gradient, parameter, state in zip(gradients, parameters, states, strict=True)
    ]
    return tensors, Memory(*(torch.stack([s[key] for s in states]) for key in Memory._fields))
