"""The base class of the steps of step-size-lstm on the CPU: in C and in blocks."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping

import torch

from learned_opt.backends.fused_step import expect
from learned_opt.backends.plain_memory import PlainMemoryStep
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.step_size_lstm import StepSizeLSTM

AVERAGES = ("m9", "m99", "v")
"""State of the parameter's shape."""


class StepSizeLSTMOnCPU(PlainMemoryStep, ABC):
    """Abstract: sums over the tensors, the network, and one pass that moves all or none."""

    shares_signals = True

    def state_shapes(self, rule: UpdateRule, shape: torch.Size) -> Mapping[str, tuple[int, ...]]:
        """Averages, the network's memory and the scalars."""
        units = expect(rule, StepSizeLSTM).hidden_size
        network = {"step": (), "h": (units,), "c": (units,), "scalars": (8,)}
        return dict.fromkeys(AVERAGES, tuple(shape)) | network
