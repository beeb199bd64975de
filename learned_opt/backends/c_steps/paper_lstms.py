"""The steps in C of the LSTM rules of papers: lstm, gated-lstm and momentum-gated-lstm."""

from __future__ import annotations

from torch import Tensor

from learned_opt.backends.c_steps.coordinate_step import CoordinateStepInC
from learned_opt.backends.fused_step import expect
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.gated_lstm import GatedLSTM, MomentumGatedLSTM
from learned_opt.rules.lstm import CoordinateLSTM
from learned_opt.rules.parts.features import RECENT_DECAY, smallest_known
from learned_opt.rules.parts.gate_pair import GatePair
from learned_opt.rules.parts.lstm_cell import LSTMCell

LARGEST_P = 80.0
"""Beyond it, e^-p is no normal number in float32."""


class CoordinateLSTMInC(CoordinateStepInC):
    """The stack of LSTMs, any number of layers and units."""

    function = "coordinate_lstm"

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """See `StepInC`; refuse a p too large for float32, too."""
        return super().refuses_rule(rule) or refuses_p(expect(rule, CoordinateLSTM).p)

    def states(self, rule: UpdateRule) -> list[str]:
        """`h` and `c` of each layer, and the `recent` size of the gradient."""
        layers = range(len(expect(rule, CoordinateLSTM).hidden_sizes))
        return [*(f"{name}{k}" for k in layers for name in "hc"), "recent"]

    def weights(self, rule: UpdateRule) -> list[Tensor]:
        """Layers and head."""
        own = expect(rule, CoordinateLSTM)
        names = ("weight", "bias")
        layers = [layer.get_parameter(name) for layer in own.layers for name in names]
        return [*layers, own.head.weight, own.head.bias]

    def settings(self, rule: UpdateRule) -> tuple[list[float], list[int]]:
        """See the enum and the last function in `c/coordinate_lstm.c`."""
        own = expect(rule, CoordinateLSTM)
        numbers = [own.p, own.output_scale, RECENT_DECAY, smallest_known(own.p)]
        return numbers, [len(own.hidden_sizes), *own.hidden_sizes]


class GatedLSTMInC(CoordinateStepInC):
    """Both gated rules, with gates that read their last values, as in the paper."""

    function = "gated"

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """See `StepInC`; refuse gates that read their last logits, which have no bound."""
        own = gated_rule(rule)
        if own.gate_pair.recurrence != "value":
            return f"its gates read their last {own.gate_pair.recurrence}"
        return super().refuses_rule(rule) or refuses_p(own.p)

    def states(self, rule: UpdateRule) -> list[str]:
        """The state tensors of the rule."""
        own = gated_rule(rule)
        if isinstance(own, GatedLSTM):
            return [*(["h", "c"] if own.hidden_size else []), "gates", "recent"]
        lstms = ["m_h", "m_c", "h", "c"] if own.hidden_size else []
        return ["m", *lstms, "m_gates", "gates", "recent"]

    def weights(self, rule: UpdateRule) -> list[Tensor]:
        """Each LSTM with its gates; the LSTM of the memory comes first."""
        own = gated_rule(rule)
        if isinstance(own, GatedLSTM):
            return _weights(own.reader, own.gate_pair)
        memory = _weights(own.memory_reader, own.memory_gates)
        return [*memory, *_weights(own.reader, own.gate_pair)]

    def settings(self, rule: UpdateRule) -> tuple[list[float], list[int]]:
        """See the enum and the last function in `c/gated.c`."""
        own = gated_rule(rule)
        has_memory = isinstance(own, MomentumGatedLSTM)
        numbers = [own.p, RECENT_DECAY, smallest_known(own.p)]
        return numbers, [own.hidden_size, int(own.use_loss), int(has_memory)]


def refuses_p(p: float) -> str | None:
    """Why numbers cannot be split with this p in float32; None if they can."""
    return f"its p is above {LARGEST_P:g}" if p > LARGEST_P else None


def _weights(reader: LSTMCell | None, gates: GatePair) -> list[Tensor]:
    own: list[Tensor] = [] if reader is None else [reader.weight, reader.bias]
    return [*own, gates.weight, gates.bias]


def gated_rule(rule: UpdateRule) -> GatedLSTM | MomentumGatedLSTM:
    """The rule, which is one of the gated ones.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(rule, (GatedLSTM, MomentumGatedLSTM)):
        raise TypeError(f"expected a gated rule, got {type(rule).__name__}")
    return rule
