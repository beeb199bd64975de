"""Which rules have faster code: one row for each class of rules, the first choice first."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from learned_opt.backends.blocks.adam_lstm import AdamLSTMInBlocks
from learned_opt.backends.blocks.paper_lstms import CoordinateLSTMInBlocks, GatedLSTMInBlocks
from learned_opt.backends.blocks.step_size_lstm import StepSizeLSTMInBlocks
from learned_opt.backends.c_steps.adam_lstm import AdamLSTMInC
from learned_opt.backends.c_steps.paper_lstms import CoordinateLSTMInC, GatedLSTMInC
from learned_opt.backends.c_steps.plain_rules import AdamInC, MomentumInC, RMSpropInC, SGDInC
from learned_opt.backends.c_steps.step_size_lstm import StepSizeLSTMInC
from learned_opt.backends.fused_step import FusedStep
from learned_opt.backends.orthogonal_momentum.step import (
    OrthogonalMomentumInC,
    OrthogonalMomentumInPlace,
)
from learned_opt.backends.triton.adam_lstm import AdamLSTMInTriton
from learned_opt.backends.triton.orthogonal import OrthogonalMomentumInTriton
from learned_opt.backends.triton.step_size import StepSizeInTriton
from learned_opt.rules.adam import Adam, RMSprop
from learned_opt.rules.adam_lstm import AdamLSTM
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.gated_lstm import GatedLSTM, MomentumGatedLSTM
from learned_opt.rules.lstm import CoordinateLSTM
from learned_opt.rules.orthogonal_momentum import OrthogonalMomentum
from learned_opt.rules.sgd import SGD, Momentum
from learned_opt.rules.step_size_lstm import StepSizeLSTM

FUSED_STEPS: Mapping[type[UpdateRule], tuple[type[FusedStep], ...]] = MappingProxyType(
    {
        Adam: (AdamInC,),
        AdamLSTM: (AdamLSTMInC, AdamLSTMInBlocks, AdamLSTMInTriton),
        CoordinateLSTM: (CoordinateLSTMInC, CoordinateLSTMInBlocks),
        GatedLSTM: (GatedLSTMInC, GatedLSTMInBlocks),
        Momentum: (MomentumInC,),
        MomentumGatedLSTM: (GatedLSTMInC, GatedLSTMInBlocks),
        OrthogonalMomentum: (
            OrthogonalMomentumInC,
            OrthogonalMomentumInPlace,
            OrthogonalMomentumInTriton,
        ),
        RMSprop: (RMSpropInC,),
        SGD: (SGDInC,),
        StepSizeLSTM: (StepSizeLSTMInC, StepSizeLSTMInBlocks, StepSizeInTriton),
    }
)


def fused_steps(rule: UpdateRule) -> list[FusedStep]:
    """Make the fused steps of a rule's class, the first choice first.

    A subclass has none, since it may have changed the equations.
    """
    return [cls() for cls in FUSED_STEPS.get(type(rule), ())]
