"""The step of `adam-lstm` on a GPU: one launch for all tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from learned_opt.backends.fused_step import expect
from learned_opt.backends.places import Places
from learned_opt.backends.triton.step_in_triton import (
    StepInTriton,
    by_dtypes,
    on,
    refuses_state,
)
from learned_opt.rules.adam_lstm import AGE_SCALES, AdamLSTM
from learned_opt.rules.base import Context, State, UpdateRule
from learned_opt.rules.parts.features import bias_correction
from learned_opt.updates import PendingUpdate

MOST_UNITS = 64
"""With more, a thread's registers do not hold the LSTM's inputs."""

BY_UNIT = ("h", "c", "m")
"""State with a trailing axis: it may lie coordinate by coordinate, or unit by unit."""


class AdamLSTMInTriton(StepInTriton):
    """All of the step in one kernel, which reads and writes every number once.

    A tensor whose gradient is not finite is left as it is. If only the update might overflow, other
    blocks of the same tensor may move; a block has 128 to 512 coordinates.
    """

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """Refuse large LSTMs, too."""
        if isinstance(rule, AdamLSTM) and rule.hidden_size > MOST_UNITS:
            return f"its LSTM has {rule.hidden_size} units, more than {MOST_UNITS}"
        return super().refuses_rule(rule)

    def refuses_state(self, state: State) -> str | None:
        """Refuse state that is not float32, or contiguous neither by coordinate nor by unit."""
        if _is_unit_major(state):
            state = {**state, **{key: state[key].movedim(-1, 0) for key in BY_UNIT}}
        return refuses_state(state)

    def step(
        self,
        rule: UpdateRule,
        places: Places,
        context: Context,
        maximize: bool,
    ) -> list[PendingUpdate]:
        """See `FusedStep.step`.

        Raises:
            TypeError: the step of another rule.
        """
        # Only here: a machine without a GPU never imports Triton.
        from learned_opt.backends.triton import adam_lstm_launch as launch

        own = expect(rule, AdamLSTM)
        updates, sign = places.updates, -1.0 if maximize else 1.0
        device = updates[0].parameter.device
        written: list[Tensor] = []
        ordered: list[PendingUpdate] = []
        with on(device):
            for dtypes, group in by_dtypes(updates).items():
                for unit_major in (False, True):
                    part = [u for u in group if _is_unit_major(u.state) == unit_major]
                    if not part:
                        continue
                    table = self.table(
                        (dtypes, unit_major),
                        launch.block_size(own.hidden_size),
                        [_tensors(update) for update in part],
                    )
                    gradients = [_or_zero(update.gradient) for update in part]
                    norms = torch.stack(torch._foreach_norm(gradients, math.inf))
                    every, some = launch.step(
                        own,
                        table,
                        dtypes,
                        self._numbers(own, part, device),
                        self.constants(_decays(own), device),
                        norms.isfinite(),
                        sign,
                        unit_major=unit_major,
                    )
                    steps = [update.state["step"] for update in part]
                    torch._foreach_add_(steps, list(some.to(steps[0].dtype).unbind()))
                    written.append(every)
                    ordered += part
            self.judge(ordered, torch.cat(written))
        return []

    def _numbers(
        self, rule: AdamLSTM, updates: Sequence[PendingUpdate], device: torch.device
    ) -> Tensor:
        """Numbers of each tensor that `step_blocks` reads, `[n, len(betas) + 9]`."""
        step = torch.stack([update.state["step"] for update in updates]) + 1
        decays = (*rule.betas, rule.fast_beta, rule.slow_beta)
        rates = self.rates.get([update.group for update in updates], device).float()
        columns = [
            *(1 / bias_correction(step, beta) for beta in decays),
            *(step / (step + scale) for scale in AGE_SCALES),
            1 / (1 + step / rule.decay_steps),
            *rates.unbind(-1),
        ]
        return torch.stack(columns, dim=-1)


def _decays(rule: AdamLSTM) -> tuple[float, ...]:
    """Beta and 1 - beta of the momenta, and of both mean squares."""
    betas = (*rule.betas, rule.fast_beta, rule.slow_beta)
    return tuple(number for beta in betas for number in (beta, 1 - beta))


def _is_unit_major(state: State) -> bool:
    return not state["h"].is_contiguous() and state["h"].movedim(-1, 0).is_contiguous()


def _tensors(update: PendingUpdate) -> list[Tensor]:
    state = [update.state[key] for key in ("h", "c", "m", "fast", "slow")]
    return [update.gradient, update.parameter, *state]


def _or_zero(tensor: Tensor) -> Tensor:
    """The tensor, or a zero in place of an empty one, which has no largest element."""
    return tensor if tensor.numel() else tensor.new_zeros(1)
