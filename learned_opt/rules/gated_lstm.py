"""Gradient descent read as an LSTM with learned gates.

Ravi & Larochelle 2017, "Optimization as a model for few-shot learning" (ICLR). An LSTM updates its
cell as c' = f c + i z. With c = theta and z = -gradient, the cell is a parameter: the forget gate
shrinks it, and the input gate is its learning rate. The variant with momentum puts such a cell on
top of another that stores past gradients.

Without a gradient, the papers' forget gate still shrinks the parameter. Here the update fades:
after about 24 steps without a gradient it halves with each step, and gradients far below
0.001 e^-p move nothing. See `known_share`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learned_opt.rules.base import Context, Gates, State
from learned_opt.rules.coordinate_rule import CoordinateRule
from learned_opt.rules.parts.features import known_share, log_sign, recent_size
from learned_opt.rules.parts.gate_pair import GatePair
from learned_opt.rules.parts.lstm_cell import LSTMCell, record_gates


class GatedLSTM(CoordinateRule):
    """Gradient descent whose shrinkage and learning rate are learned gates.

        theta' = f theta - i g

    Ravi & Larochelle 2017, section 3. A plain LSTM reads the preprocessed gradient and loss; its
    output and theta drive the gates f and i. With `hidden_size=0` the gates read the preprocessed
    numbers directly, as in the paper's equations.

    State per coordinate: `h` and `c` of the LSTM, `[H]`; the last `gates` f and i, `[2]`; the
    `recent` size of the gradient.

    Args:
        hidden_size: units of the first LSTM, or 0 for none.
        p: the preprocessing constant of Andrychowicz et al. 2016.
        use_loss: read the loss, as in the paper; `optimizer.step` then needs a closure.
        recurrence: see `GatePair`.
        init_range: initial weights of gates and LSTMs are uniform in +-init_range.
        forget_bias: bounds of the uniform distribution of the forget gates' initial bias.
        input_bias: the same for the input gates.

    Examples:
        >>> optimizer = LearnedOptimizer(model.parameters(), rule=GatedLSTM())
        >>> loss = nn.functional.cross_entropy(model(inputs), targets)
        >>> loss.backward()
        >>> loss = optimizer.step(lambda: loss)
    """

    default_lr = 1.0
    idle_key = "gates"
    added_state = frozenset({"recent"})

    def __init__(
        self,
        *,
        hidden_size: int = 20,
        p: float = 10.0,
        use_loss: bool = True,
        recurrence: str = "value",
        init_range: float = 0.01,
        forget_bias: Sequence[float] = (4.0, 5.0),
        input_bias: Sequence[float] = (-5.0, -4.0),
    ) -> None:
        forget_bias, input_bias = tuple(forget_bias), tuple(input_bias)
        super().__init__(
            hidden_size=hidden_size,
            p=p,
            use_loss=use_loss,
            recurrence=recurrence,
            init_range=init_range,
            forget_bias=forget_bias,
            input_bias=input_bias,
        )
        _check_settings(hidden_size, p, init_range, forget_bias, input_bias)
        self.p = p
        self.use_loss = use_loss
        self.hidden_size = hidden_size
        inputs = 4 if use_loss else 2
        start = init_range, forget_bias, input_bias
        self.reader = _reader(inputs, hidden_size, init_range)
        self.gate_pair = GatePair(hidden_size or inputs, recurrence, *start)

    def required_context(self) -> frozenset[str]:
        """The loss if `use_loss`, else nothing."""
        return frozenset({"loss"}) if self.use_loss else frozenset()

    def coordinate_state(self) -> dict[str, tuple[int, ...]]:
        """`h`, `c` of the LSTM, the last `gates` (f, i), the `recent` size of the gradient."""
        return {**_reader_state("", self.hidden_size), "gates": (2,), "recent": ()}

    def held_state(self) -> frozenset[str]:
        """`h` and `c` of the LSTM: `LSTMCell` holds them."""
        return frozenset(_reader_state("", self.hidden_size))

    def update_coordinates(
        self,
        gradient: Tensor,
        parameter: Tensor,
        state: State,
        context: Context,
        gates: Gates | None = None,
    ) -> tuple[Tensor, State]:
        """See the class."""
        inputs = _preprocess(gradient, context.loss if self.use_loss else None, self.p)
        features, new_state = _read(self.reader, "", inputs, state, gates)
        f, shrink, i, last = self.gate_pair(features, parameter, state["gates"])
        if gates is not None:
            gates.update({"forget": f, "input": i})
        recent = recent_size(state["recent"], gradient)
        delta = known_share(recent, self.p) * (shrink * parameter - i * gradient)
        return delta, {**new_state, "gates": last, "recent": recent}


class MomentumGatedLSTM(CoordinateRule):
    """Two gated cells: the first stores past gradients, the second applies them.

        m' = f_m m - i_m g,  theta' = f theta + i m'

    Each pair of gates has an LSTM of its own: the first reads g, the second m'. Constant gates give
    gradient descent with momentum (f_m = momentum, i_m = 1, f = 1, i = learning rate). This is the
    two-layer "gradient descent as LSTM" of H.-y. Lee's lectures on meta-learning (2019), with the
    gates and the initial values of Ravi & Larochelle 2017.

    State per coordinate: the memory `m`; `m_h`, `m_c`, `h` and `c` of the LSTMs, `[H]`; the last
    `m_gates` and `gates`, `[2]`; the `recent` size of the gradient.

    Args:
        hidden_size: units of each LSTM; with 0 the gates read the preprocessed numbers directly.
        p: the preprocessing constant of Andrychowicz et al. 2016.
        use_loss: let both LSTMs read the loss as well; `optimizer.step` then needs a closure.
        recurrence: see `GatePair`.
        init_range: initial weights of gates and LSTMs are uniform in +-init_range.
        forget_bias: bounds of the uniform distribution of the forget gates' initial bias.
        input_bias: the same for the input gates.

    Examples:
        >>> optimizer = LearnedOptimizer(model.parameters(), rule=MomentumGatedLSTM())
    """

    default_lr = 1.0
    idle_key = "gates"
    added_state = frozenset({"recent"})

    def __init__(
        self,
        *,
        hidden_size: int = 20,
        p: float = 10.0,
        use_loss: bool = False,
        recurrence: str = "value",
        init_range: float = 0.01,
        forget_bias: Sequence[float] = (4.0, 5.0),
        input_bias: Sequence[float] = (-5.0, -4.0),
    ) -> None:
        forget_bias, input_bias = tuple(forget_bias), tuple(input_bias)
        super().__init__(
            hidden_size=hidden_size,
            p=p,
            use_loss=use_loss,
            recurrence=recurrence,
            init_range=init_range,
            forget_bias=forget_bias,
            input_bias=input_bias,
        )
        _check_settings(hidden_size, p, init_range, forget_bias, input_bias)
        self.p = p
        self.use_loss = use_loss
        self.hidden_size = hidden_size
        inputs = 4 if use_loss else 2
        start = init_range, forget_bias, input_bias
        self.memory_reader = _reader(inputs, hidden_size, init_range)
        self.memory_gates = GatePair(hidden_size or inputs, recurrence, *start)
        self.reader = _reader(inputs, hidden_size, init_range)
        self.gate_pair = GatePair(hidden_size or inputs, recurrence, *start)

    def required_context(self) -> frozenset[str]:
        """The loss if `use_loss`, else nothing."""
        return frozenset({"loss"}) if self.use_loss else frozenset()

    def coordinate_state(self) -> dict[str, tuple[int, ...]]:
        """The memory `m`, `h` and `c` of both LSTMs, the last gates of both pairs, `recent`."""
        return {
            "m": (),
            **_reader_state("m_", self.hidden_size),
            **_reader_state("", self.hidden_size),
            "m_gates": (2,),
            "gates": (2,),
            "recent": (),
        }

    def held_state(self) -> frozenset[str]:
        """`h` and `c` of both LSTMs: `LSTMCell` holds them."""
        size = self.hidden_size
        return frozenset({**_reader_state("m_", size), **_reader_state("", size)})

    def update_coordinates(
        self,
        gradient: Tensor,
        parameter: Tensor,
        state: State,
        context: Context,
        gates: Gates | None = None,
    ) -> tuple[Tensor, State]:
        """See the class."""
        loss = context.loss if self.use_loss else None
        inputs = _preprocess(gradient, loss, self.p)
        features, memory_state = _read(self.memory_reader, "m_", inputs, state, gates)
        f_m, _, i_m, last_m = self.memory_gates(features, state["m"], state["m_gates"])
        m = f_m * state["m"] - i_m * gradient

        inputs = _preprocess(m, loss, self.p)
        features, new_state = _read(self.reader, "", inputs, state, gates)
        f, shrink, i, last = self.gate_pair(features, parameter, state["gates"])
        if gates is not None:
            gates.update({"memory_forget": f_m, "memory_input": i_m, "forget": f, "input": i})
        recent = recent_size(state["recent"], gradient)
        kept = {"m": m, **memory_state, **new_state, "m_gates": last_m, "gates": last}
        delta = known_share(recent, self.p) * (shrink * parameter + i * m)
        return delta, {**kept, "recent": recent}


def _check_settings(
    hidden_size: int,
    p: float,
    init_range: float,
    forget_bias: Sequence[float],
    input_bias: Sequence[float],
) -> None:
    if hidden_size < 0:
        raise ValueError(f"hidden_size must be at least 0, got {hidden_size}")
    if not p > 0:
        raise ValueError(f"p must be positive, got {p}")
    if not init_range >= 0:
        raise ValueError(f"init_range must be at least 0, got {init_range}")
    for name, bounds in (("forget_bias", forget_bias), ("input_bias", input_bias)):
        if len(bounds) != 2 or not bounds[0] <= bounds[1]:
            raise ValueError(f"{name} must be two ordered bounds, got {bounds}")


def _reader(inputs: int, hidden_size: int, init_range: float) -> LSTMCell | None:
    return LSTMCell(inputs, hidden_size, 0.0, init_range) if hidden_size else None


def _reader_state(prefix: str, hidden_size: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}h": (hidden_size,), f"{prefix}c": (hidden_size,)} if hidden_size else {}


def _preprocess(value: Tensor, loss: Tensor | None, p: float) -> Tensor:
    """`[N, 2]`, or `[N, 4]` with the loss (0-dim, or `[N]` with a loss per run)."""
    features = log_sign(value, p)
    if loss is None:
        return features
    shared = log_sign(loss.to(value.dtype), p)
    return torch.cat([features.mT, shared.expand(*value.shape, 2).mT]).mT


def _read(
    reader: LSTMCell | None, prefix: str, inputs: Tensor, state: State, gates: Gates | None
) -> tuple[Tensor, State]:
    if reader is None:
        return inputs, {}
    h, c, values = reader(
        inputs,
        state[f"{prefix}h"],
        state[f"{prefix}c"],
        idle=state.get("idle"),
        with_gates=gates is not None,
    )
    if gates is not None:
        record_gates(gates, f"{prefix}lstm", values)
    return h, {f"{prefix}h": h, f"{prefix}c": c}
