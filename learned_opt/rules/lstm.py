"""A small LSTM per coordinate that reads the gradient and writes the update.

Andrychowicz et al. 2016, "Learning to learn by gradient descent by gradient descent"
(arXiv 1606.04474).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from learned_opt.rules.base import Context, Gates, State
from learned_opt.rules.coordinate_rule import CoordinateRule
from learned_opt.rules.parts.features import known_share, log_sign, recent_size
from learned_opt.rules.parts.lstm_cell import LSTMCell, record_gates


class CoordinateLSTM(CoordinateRule):
    """A stack of LSTMs that reads the preprocessed gradient and writes the update.

        delta = output_scale * (W h + b)

    Andrychowicz et al. 2016, section 2.1 and appendix A; h is the output of the last LSTM. All
    coordinates share the weights; each has its own state.

    The paper's network goes on writing updates where gradients have stopped. Here they fade: after
    about 24 steps without a gradient they halve with each step, and gradients far below 0.001 e^-p
    move nothing. See `known_share`.

    State per coordinate: `h0`, `c0`, `h1`, `c1`, ... of the layers, `[H]` each; the `recent` size
    of the gradient.

    Args:
        hidden_sizes: units of each LSTM layer (paper: 20, 20).
        p: the preprocessing constant (paper: 10; released code: 5).
        output_scale: the factor on the output (paper: 0.1; released code: 0.01).
        forget_bias: initial bias of the forget gates (1, as in the released code's LSTM).

    Examples:
        >>> optimizer = LearnedOptimizer(model.parameters(), rule=CoordinateLSTM(p=5.0))
    """

    default_lr = 1.0
    idle_key = "c0"
    added_state = frozenset({"recent"})

    def __init__(
        self,
        *,
        hidden_sizes: Sequence[int] = (20, 20),
        p: float = 10.0,
        output_scale: float = 0.1,
        forget_bias: float = 1.0,
    ) -> None:
        hidden_sizes = tuple(hidden_sizes)
        super().__init__(
            hidden_sizes=hidden_sizes, p=p, output_scale=output_scale, forget_bias=forget_bias
        )
        if not hidden_sizes or min(hidden_sizes) < 1:
            raise ValueError(f"hidden_sizes must be positive and not empty, got {hidden_sizes}")
        if not p > 0:
            raise ValueError(f"p must be positive, got {p}")
        self.hidden_sizes = hidden_sizes
        self.p = p
        self.output_scale = output_scale
        sizes = (2, *hidden_sizes)
        self.layers = nn.ModuleList(
            LSTMCell(sizes[k], sizes[k + 1], forget_bias) for k in range(len(hidden_sizes))
        )
        self.head = nn.Linear(hidden_sizes[-1], 1, dtype=torch.float32)

    def coordinate_state(self) -> dict[str, tuple[int, ...]]:
        """`h` and `c` of every layer, and the `recent` size of the gradient."""
        sizes = enumerate(self.hidden_sizes)
        return {**{f"{name}{k}": (size,) for k, size in sizes for name in "hc"}, "recent": ()}

    def held_state(self) -> frozenset[str]:
        """`h` and `c` of every layer: `LSTMCell` holds them."""
        return frozenset(f"{name}{k}" for k in range(len(self.hidden_sizes)) for name in "hc")

    def update_coordinates(
        self,
        gradient: Tensor,
        parameter: Tensor,
        state: State,
        context: Context,
        gates: Gates | None = None,
    ) -> tuple[Tensor, State]:
        """See the class."""
        signal = log_sign(gradient, self.p)
        new_state: State = {"recent": recent_size(state["recent"], gradient)}
        for k, layer in enumerate(self.layers):
            h, c, values = layer(
                signal,
                state[f"h{k}"],
                state[f"c{k}"],
                idle=state.get("idle"),
                with_gates=gates is not None,
            )
            new_state.update({f"h{k}": h, f"c{k}": c})
            if gates is not None:
                record_gates(gates, f"lstm{k}", values)
            signal = h
        known = known_share(new_state["recent"], self.p)
        output = torch.addmm(self.head.bias.unsqueeze(-1), self.head.weight, signal.mT)
        return known * (self.output_scale * output.squeeze(0)), new_state
