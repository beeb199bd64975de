"""Settings of inner steps that stay the same for a whole meta-training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from meta_train.inner.imitation import Teacher
from meta_train.inner.step.compiled_rule import CompiledRule
from meta_train.inner.step.rule_in_c import RuleInC


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """Settings of inner steps that do not depend on the problem.

    Attributes:
        lr: factor on the update; None takes the rule's own. `[runs]` sets one for each run.
        weight_decay: decoupled weight decay.
        second_order: differentiate through the inner gradients too.
        divergence: a run has diverged once its loss is not finite or exceeds this multiple of its
            first loss.
        hide_loss: do not give the loss to the rule, unless the rule requires it.
        teacher: hand-designed rule whose updates are compared with ours at every step.
        compiled: takes the steps of a population, in which each run has weights of its own; None
            goes through `torch.func.vmap`.
        in_c: takes them in C, before `compiled`, where a loop may overwrite its states.
    """

    lr: float | Tensor | None = None
    weight_decay: float = 0.0
    second_order: bool = False
    divergence: float = 1e3
    hide_loss: bool = False
    teacher: Teacher | None = None
    compiled: CompiledRule | None = None
    in_c: RuleInC | None = None
