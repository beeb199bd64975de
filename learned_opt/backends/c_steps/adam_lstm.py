"""The step of adam-lstm in C."""

from __future__ import annotations

from torch import Tensor

from learned_opt.backends.c_steps.coordinate_step import CoordinateStepInC
from learned_opt.backends.fused_step import expect
from learned_opt.rules.adam_lstm import AGE_SCALES, FADE, SMALLEST, AdamLSTM
from learned_opt.rules.base import UpdateRule


class AdamLSTMInC(CoordinateStepInC):
    """244 bytes of memory traffic and 65 transcendental functions a coordinate, with 12 units."""

    function = "adam_lstm"

    def states(self, rule: UpdateRule) -> list[str]:
        """The state tensors of the rule."""
        return ["h", "c", "m", "fast", "slow"]

    def weights(self, rule: UpdateRule) -> list[Tensor]:
        """Cell and head."""
        own = expect(rule, AdamLSTM)
        return [own.lstm.weight, own.lstm.bias, own.head.weight, own.head.bias]

    def settings(self, rule: UpdateRule) -> tuple[list[float], list[int]]:
        """See the enum and the last function in `c/adam_lstm.c`."""
        own = expect(rule, AdamLSTM)
        numbers = [own.fast_beta, own.slow_beta, own.log_range, own.log_gain, own.direction_gain]
        numbers += [own.decay_steps, SMALLEST, FADE, *AGE_SCALES, *own.betas]
        return numbers, [own.hidden_size, len(own.betas), own.main, own.shortest]
