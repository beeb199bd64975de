"""An LSTM per coordinate that bends the step of `general`, inside its tensor's size.

The LSTM reads how the coordinate compares with its tensor, and says how much of the step, and how
much of the momentum, to add. It reads products and magnitudes only, so a coordinate whose signs are
all turned round gets the same step turned round; and it knows neither the size of gradients nor the
number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from learned_opt.rules.base import Gates, State
from learned_opt.rules.coordinate_rule import unit_major
from learned_opt.rules.parts.lstm_cell import LSTMCell, record_gates
from learned_opt.rules.parts.whole_tensors import LOCAL, WholeTensors, one_where_zero

SIGNALS = 6
"""Inputs of the LSTM for one coordinate; see `CoordinateResidual`."""

STATE = ("coordinate_h", "coordinate_c")
"""Names of its state, `[*param, H]` each."""


class CoordinateResidual(nn.Module):
    """An LSTM of H units, shared by all coordinates, whose output is added to the step.

    With delta the step of a tensor, g its gradient, m its momentum, away the way from the average
    to the parameter p, a hat for a tensor over its RMS, and s(x) = sign(x) log(1 + |x|)::

        x = s of [|delta^|, |g^|, |m^|, |p^|, -g^ m^, away^ delta^]
        y = head(LSTM(x))
        delta <- delta + C (tanh(y_0) delta - tanh(y_1) RMS(delta) m^)

    The head is zero before training: nothing is added then. A coordinate that the base does not
    move, and that has no momentum, does not move.

    Args:
        hidden_size: units H, at least 1.
        bound: C, the largest share of the step and of the momentum that is added.
    """

    def __init__(self, hidden_size: int, bound: float) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.bound = bound
        self.cell = LSTMCell(SIGNALS, hidden_size)
        self.head = nn.Linear(hidden_size, 2, bias=False, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)

    def init_state(self, parameter: Tensor, dtype: torch.dtype) -> State:
        """Zeros, `[*param, H]`, laid out unit by unit."""
        shape = (*parameter.shape, self.hidden_size)
        zeros = torch.zeros(shape, dtype=dtype, device=parameter.device)
        return {key: unit_major(zeros.clone(), parameter.dim()) for key in STATE}

    def forward(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        deltas: Sequence[Tensor],
        states: Sequence[State],
        tensors: WholeTensors | None = None,
        gates: Gates | None = None,
    ) -> tuple[list[Tensor], list[State]]:
        """Step all coordinates of n tensors in one call.

        Args:
            gradients: `[*param]` each.
            parameters: before the step, `[*param]` each.
            deltas: the steps to bend, `[*param]` each.
            states: `m` and `average` after the base's step, and the LSTM's own state before it.
            tensors: answers about whole tensors, where the others are parts.
            gates: if given, the gates are written into it, `[N, H]` for the N coordinates of all
                tensors in order.

        Returns:
            The bent steps, `[*param]` each; and the LSTM's new state of each tensor.
        """
        if not deltas:
            return [], []
        whole = tensors or LOCAL
        momenta = [state["m"] for state in states]
        away = [p - state["average"] for p, state in zip(parameters, states, strict=True)]
        every = (deltas, gradients, momenta, parameters, away)
        sizes = [whole.rms(dict(enumerate(values))) for values in every]
        step, gradient, momentum, parameter, distance = map(_relative, every, sizes)
        signals = torch.stack(
            [
                step.abs(),
                gradient.abs(),
                momentum.abs(),
                parameter.abs(),
                -gradient * momentum,
                distance * step,
            ]
        )
        signals = signals.sign() * signals.abs().log1p()
        before = [
            torch.cat([_units_first(state[key]) for state in states], dim=-1).mT for key in STATE
        ]
        h, c, gate_values = self.cell(signals.mT, *before, with_gates=gates is not None)
        if gates is not None:
            record_gates(gates, "coordinate", gate_values)
        shares = self.bound * torch.tanh(self.head.weight @ h.mT)
        added = shares[0] * step - shares[1] * momentum
        counts = [delta.numel() for delta in deltas]
        bent = [
            delta + sizes[0][k] * part.reshape(delta.shape)
            for k, (delta, part) in enumerate(zip(deltas, added.split(counts), strict=True))
        ]
        new_states: list[State] = [{} for _ in deltas]
        for key, value in zip(STATE, (h, c), strict=True):
            for new, part, delta in zip(new_states, value.split(counts), deltas, strict=True):
                new[key] = part.reshape(*delta.shape, self.hidden_size)
        return bent, new_states


def _relative(values: Sequence[Tensor], rms: Mapping[int, Tensor]) -> Tensor:
    """The coordinates of all tensors, each over the RMS of its whole tensor, `[N]`."""
    return torch.cat(
        [(value / one_where_zero(rms[k])).reshape(-1) for k, value in enumerate(values)]
    )


def _units_first(state: Tensor) -> Tensor:
    """`[*param, H]` as `[H, N]`."""
    return state.movedim(-1, 0).reshape(state.shape[-1], -1)
