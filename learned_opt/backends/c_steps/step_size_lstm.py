"""The step of step-size-lstm in C: its two passes, and the network between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.backends.c_steps.step_in_c import rates, sizes
from learned_opt.backends.fused_step import expect
from learned_opt.backends.places import Places
from learned_opt.backends.plain_memory import is_plain, refuses_cast, refuses_memory
from learned_opt.backends.step_size_on_cpu import AVERAGES, StepSizeLSTMOnCPU
from learned_opt.c_library import addresses, call_c, missing_library, thread_count
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.rules.parts.step_size_coefficients import LAST, WARM_UP
from learned_opt.rules.parts.step_size_features import BETA_LOG, RMS_FLOOR
from learned_opt.rules.parts.tensor_directions import BETA_FAST, BETA_SLOW, TINY
from learned_opt.rules.step_size_lstm import DIRECTION_FLOOR, LOG_RANGE, StepSizeLSTM
from learned_opt.updates import PendingUpdate

STATE = ("step", *AVERAGES, "h", "c", "scalars")
"""In the order of C."""


class StepSizeLSTMInC(StepSizeLSTMOnCPU):
    """56 bytes of memory traffic a parameter, twice fused AdamW's; one call for all tensors."""

    code = "C"

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """Refuse where there is no library, and weights that are not plain memory of the CPU."""
        why = refuses_cast(rule) or missing_library()
        if why is not None:
            return why
        for weight in _weights(expect(rule, StepSizeLSTM)):
            if not is_plain(weight.detach()):
                return f"a weight {refuses_memory(weight.detach())}"
        return None

    def step(
        self,
        rule: UpdateRule,
        places: Places,
        context: Context,
        maximize: bool,
    ) -> list[PendingUpdate]:
        """See `FusedStep.step`; the tensors are stepped together or left together."""
        own, updates = expect(rule, StepSizeLSTM), places.updates
        if context.total_steps is None:
            raise ValueError("StepSizeLSTM needs the planned number of steps, got none")
        sign = -1.0 if maximize else 1.0
        loss = 0.0 if context.loss is None else sign * float(context.loss)
        settings = constants(own, loss, float(context.total_steps))
        is_vector = [update.parameter.dim() <= 1 for update in updates]
        elements = sizes([update.parameter for update in updates])
        weights = _weights(own)  # alive until C returns
        untouched = np.zeros(1, dtype=np.uint8)
        call_c(
            "step_size_lstm",
            len(updates),
            elements,
            places.table(STATE),
            rates(updates),
            sign,
            np.array(is_vector, dtype=np.uint8),
            untouched,
            addresses(weights),
            settings,
            switches(own, has_loss=context.loss is not None),
            thread_count(int(elements.sum())),
        )
        return list(updates) if untouched[0] else []


def constants(rule: StepSizeLSTM, loss: float, total_steps: float) -> NDArray[np.float64]:
    """The settings of a step, in the order of C."""
    settings = [
        *(loss, total_steps, rule.default_lr, WARM_UP, LAST, DIRECTION_FLOOR),
        *(*LOG_RANGE, RMS_FLOOR, BETA_LOG, BETA_FAST, BETA_SLOW, TINY),
    ]
    return np.array(settings, dtype=np.float64)


def switches(rule: StepSizeLSTM, *, has_loss: bool) -> NDArray[np.int64]:
    """The whole numbers of a step, in the order of C."""
    return np.array([rule.hidden_size, has_loss, rule.parameter_scale], dtype=np.int64)


def _weights(rule: StepSizeLSTM) -> list[Tensor]:
    """Of the cell and the head, and shift and scale of the features."""
    lstm, head = rule.lstm, rule.head
    learned = [lstm.weight, lstm.bias, head.weight, head.bias]
    return [*learned, rule.feature_shift, rule.feature_scale]
