"""Orthogonalised momentum whose step sizes a small learned map steers.

Direction, schedule and average are those of `orthogonal_momentum.py`, which is hand-designed. What
is learned is one bounded factor on the step of each tensor: a linear map of scale-free
measurements, as small as a learned optimizer can be, and if asked for an LSTM beside it, whose skip
connection the linear map is. Before training the factor is 1. If asked for, an LSTM for each
coordinate bends the step inside its tensor, too; see `coordinate_residual.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from learned_opt.rules.base import Context, Gates, State, cast_state
from learned_opt.rules.coordinate_residual import CoordinateResidual
from learned_opt.rules.orthogonal_momentum import OrthogonalMomentum, is_stepped_as_matrix
from learned_opt.rules.parts.features import euclidean_norm
from learned_opt.rules.parts.general_features import (
    FEATURES,
    Memory,
    initial_steering,
    measure,
    read_features,
)
from learned_opt.rules.parts.lstm_cell import LSTMCell, record_gates
from learned_opt.rules.parts.whole_tensors import LOCAL, WholeTensors
from learned_opt.rules.steered_rule import SteeredRule, SteeredStep

DRIFT_DELAY = 10.0
"""Added to the step number in the weight 1 / (t + 10) of the drift, which integrates over log t."""


class General(SteeredRule):
    r"""A learned factor on the steps of orthogonalised momentum.

    With delta the step of `OrthogonalMomentum`, x the `FEATURES` of a tensor, and one set of
    weights w, b for matrices and one for vectors::

        y = w x + b + head(LSTM(x))
        A <- clamp(A + y_1 / (t + 10), -2 B, 2 B)
        step = exp(B tanh((y_0 + A) / B)) * delta

    w, b and the head are zero before training; the rule then equals its base, bit for bit. The
    factor lies between exp(-B) and exp(B). The rule reads no loss. A planned number of steps, where
    it is given, changes the schedule of the base alone.

    The state of a tensor is the base's; `steering`, `[5]`, see `Memory`; `h` and `c` of its LSTM,
    `[H]`, if there is one; and `coordinate_h` and `coordinate_c`, `[*param, K]`, if each coordinate
    has one.

    Args:
        hidden_size: units H of the LSTM, which all tensors share; 0 is no LSTM.
        bound: B of matrices, positive.
        vector_bound: B of vectors, scalars, and the tables of large vocabularies; positive.
        coordinate_size: units K of the LSTM that all coordinates share; 0 is none.
        coordinate_bound: the largest share of the step, and of the momentum, that it adds;
            positive.

    Raises:
        ValueError: an argument out of range.

    Examples:
        >>> rule = create_rule("general")
        >>> optimizer = LearnedOptimizer(model.parameters(), rule=rule)
    """

    default_lr = OrthogonalMomentum.default_lr
    averages = True
    uses = frozenset({"total_steps"})
    directions = OrthogonalMomentum.directions
    takes_parts = True
    tensor_state = OrthogonalMomentum.tensor_state | {"steering", "h", "c"}

    def __init__(
        self,
        *,
        hidden_size: int = 0,
        bound: float = 1.0,
        vector_bound: float = 0.5,
        coordinate_size: int = 0,
        coordinate_bound: float = 0.5,
    ) -> None:
        super().__init__(
            hidden_size=hidden_size,
            bound=bound,
            vector_bound=vector_bound,
            coordinate_size=coordinate_size,
            coordinate_bound=coordinate_bound,
        )
        for name, size in (("hidden_size", hidden_size), ("coordinate_size", coordinate_size)):
            if size < 0:
                raise ValueError(f"{name} must not be negative, got {size}")
        for name, value in (
            ("bound", bound),
            ("vector_bound", vector_bound),
            ("coordinate_bound", coordinate_bound),
        ):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        self.hidden_size = hidden_size
        self.bound = bound
        self.vector_bound = vector_bound
        self.base = OrthogonalMomentum()
        # Of matrices and of vectors: [kind, output, feature] and [kind, output].
        self.weight = nn.Parameter(torch.zeros(2, 2, len(FEATURES), dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(2, 2, dtype=torch.float32))
        self._scaling: Tensor
        self._bounds: Tensor
        scaling, bounds = [*FEATURES.values()], [bound, vector_bound]
        self.register_buffer(
            "_scaling", torch.tensor(scaling, dtype=torch.float32), persistent=False
        )
        self.register_buffer("_bounds", torch.tensor(bounds, dtype=torch.float32), persistent=False)
        self.lstm: LSTMCell | None = None
        if hidden_size:
            self.lstm = LSTMCell(len(FEATURES), hidden_size)
            self.head = nn.Linear(hidden_size, 2, bias=False, dtype=torch.float32)
            nn.init.zeros_(self.head.weight)
        self.coordinates: CoordinateResidual | None = None
        if coordinate_size:
            self.coordinates = CoordinateResidual(coordinate_size, coordinate_bound)

    def init_tensor_state(self, parameter: Tensor) -> State:
        """The base's state, and zeros except for the initial RMS in `steering`."""
        return self.init_part_state(parameter, parameter.shape, None, LOCAL)

    def init_part_state(
        self,
        parameter: Tensor,
        shape: Sequence[int],
        direction: str | None,
        tensors: WholeTensors,
    ) -> State:
        """See `init_tensor_state`; `direction` is the base's, the RMS that of the whole tensor."""
        own = {"steering": initial_steering(parameter, shape, self.wide_dtype, tensors)}
        for key in self._network_state():
            own[key] = own["steering"].new_zeros(self.hidden_size)
        if self.coordinates is not None:
            own |= self.coordinates.init_state(parameter, self.dtype)
        return {**self.base.init_part_state(parameter, shape, direction, tensors), **own}

    def _network_state(self) -> tuple[str, ...]:
        """Names of the LSTM's state."""
        return () if self.lstm is None else ("h", "c")

    def state_bytes_per_parameter(self) -> int:
        """Bytes of state that one coordinate of a matrix costs; of a vector, Adam's `v` more."""
        own = 0
        if self.coordinates is not None:
            own = 2 * self.coordinates.hidden_size * self.dtype.itemsize
        return self.base.state_bytes_per_parameter() + own

    def decay_factor(self, state: State, context: Context) -> Tensor:
        """The base's schedule."""
        return self.base.decay_factor(state, context)

    def evaluation_point(self, parameter: Tensor, state: State) -> tuple[Tensor, State]:
        """The base's average."""
        average, after = self.base.evaluation_point(parameter, state)
        return average, {**state, **after}

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
        deltas, after = self.base.update(gradients, parameters, states, context)
        before = torch.stack([state["steering"] for state in states])
        features, memory = read_features(
            measure(gradients, parameters, deltas, states, after, context.tensors),
            Memory(*before.unbind(-1)),
            after,
            (context.tensors or LOCAL).shapes(parameters),
            self._scaling,
            self.default_lr,
        )
        kinds = [
            0 if is_stepped_as_matrix(parameter, state) else 1
            for parameter, state in zip(parameters, states, strict=True)
        ]
        weight = torch.stack([self.weight[kind] for kind in kinds])
        bias = torch.stack([self.bias[kind] for kind in kinds])
        y = (weight * features.unsqueeze(-2)).sum(-1) + bias
        own = {}
        if self.lstm is not None:
            h, c, gate_values = self.lstm(
                features, *(torch.stack([state[key] for state in states]) for key in ("h", "c"))
            )
            own = {"h": h, "c": c}
            y = y + self.head(h)
            if gates is not None:
                record_gates(gates, "lstm", gate_values)
        direct, drifting = y.unbind(-1)
        step = torch.stack([state["step"] for state in after])
        bound = torch.stack([self._bounds[kind] for kind in kinds])
        drift = torch.clamp(memory.drift + drifting / (step + DRIFT_DELAY), -2 * bound, 2 * bound)
        factor = (bound * torch.tanh((direct + drift) / bound)).exp()
        # A tensor that never had a gradient stays as it was made.
        idle = torch.stack([state["scalars"][0] == 0 for state in after]).unsqueeze(-1)
        own["steering"] = torch.stack(memory._replace(drift=drift), dim=-1)
        new_states = [dict(state) for state in after]
        for key, value in own.items():
            kept = torch.where(idle, torch.stack([state[key] for state in states]), value)
            for state, row in zip(new_states, kept.unbind(), strict=True):
                state[key] = row
        deltas = self._add_coordinate_steps(
            gradients, parameters, deltas, states, new_states, context, gates
        )
        return [f * delta for f, delta in zip(factor.unbind(), deltas, strict=True)], new_states

    def _add_coordinate_steps(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        deltas: list[Tensor],
        states: Sequence[State],
        after: Sequence[State],
        context: Context,
        gates: Gates | None,
    ) -> list[Tensor]:
        """Add the steps of the LSTM of the coordinates; its new state goes into `after`."""
        if self.coordinates is None:
            return deltas
        given = [{**before, **new} for before, new in zip(states, after, strict=True)]
        bent: list[Tensor]
        found: list[State]
        bent, found = self.coordinates(gradients, parameters, deltas, given, context.tensors, gates)
        for before, new, own in zip(states, after, found, strict=True):
            idle = new["scalars"][0] == 0
            new.update({key: torch.where(idle, before[key], own[key]) for key in own})
        return bent

    def gates(
        self, gradient: Tensor, parameter: Tensor, state: State, context: Context | None = None
    ) -> Gates:
        """Gates of the tensor's LSTM, `[1, ..., 1, H]`, and of its coordinates', `[*param, K]`.

        Without an LSTM there are none. Asked about one tensor alone, the mean cosine over all
        tensors is its own.
        """
        if self.lstm is None and self.coordinates is None:
            return {}
        if self.dtype != self.wide_dtype:
            wide = copy.deepcopy(self).to(self.wide_dtype)
            return wide.gates(gradient, parameter, cast_state(state, self.wide_dtype), context)
        recorded: Gates = {}
        advanced = {**state, "step": state["step"] + 1}
        gradient, parameter = gradient.to(self.dtype), parameter.to(self.dtype)
        self.update([gradient], [parameter], [advanced], context or Context(), recorded)
        ones = (1,) * gradient.dim()
        return {
            key: value.reshape(
                *(gradient.shape if key.startswith("coordinate_") else ones), value.shape[-1]
            )
            for key, value in recorded.items()
        }

    def steered_step(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context,
    ) -> SteeredStep:
        """See `SteeredRule`. The direction is the base's, so there is no mix.

        The multiplier of a tensor that does not move is NaN.
        """
        deltas, after = self(gradients, parameters, states, context)
        unsteered, _ = self.base(gradients, parameters, states, context)
        tensors = zip(gradients, parameters, states, strict=True)
        each = [self.gates(*tensor, context) for tensor in tensors]
        own = [name for name in (each[0] if each else ()) if not name.startswith("coordinate_")]
        norms = [
            torch.stack([euclidean_norm(delta) for delta in one]) for one in (deltas, unsteered)
        ]
        schedule = [
            torch.as_tensor(self.decay_factor(state, context), dtype=self.wide_dtype)
            for state in after
        ]
        return SteeredStep(
            deltas=deltas,
            gates={name: torch.stack([one[name].reshape(-1) for one in each]) for name in own},
            schedule=torch.stack([value.reshape(()) for value in schedule]),
            multiplier=norms[0] / norms[1],
            mix={},
            coordinate_gates=[
                {name: values for name, values in one.items() if name not in own} for one in each
            ],
        )
