"""Steps in C of hand-designed rules."""

from __future__ import annotations

from abc import ABC

from torch import Tensor

from learned_opt.backends.c_steps.coordinate_step import CoordinateStepInC
from learned_opt.backends.fused_step import expect
from learned_opt.rules.adam import Adam, RMSprop
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.sgd import SGD, Momentum

LEAST_EPS = 1e-20
"""Smallest eps: below it, the bound on an update is not a finite number in float32."""


class PlainRuleInC(CoordinateStepInC, ABC):
    """Abstract: a rule without a network; see `c/plain_rules.c`."""

    piece = 1 << 10  # four arrays of it fit the innermost cache

    def weights(self, rule: UpdateRule) -> list[Tensor]:
        """None."""
        return []


class SGDInC(PlainRuleInC):
    """12 bytes of memory traffic a parameter, and 4 to look at gradients."""

    function = "sgd"

    def states(self, rule: UpdateRule) -> list[str]:
        """None."""
        return []

    def settings(self, rule: UpdateRule) -> tuple[list[float], list[int]]:
        """None."""
        expect(rule, SGD)
        return [], []


class MomentumInC(PlainRuleInC):
    """20 bytes of memory traffic a parameter, and 4 to look."""

    function = "momentum"

    def states(self, rule: UpdateRule) -> list[str]:
        """The momentum buffer."""
        return ["m"]

    def settings(self, rule: UpdateRule) -> tuple[list[float], list[int]]:
        """In the order of the class."""
        own = expect(rule, Momentum)
        return [own.momentum, own.dampening, float(own.nesterov)], []


class RMSpropInC(PlainRuleInC):
    """20 bytes of memory traffic a parameter, and 4 to look."""

    function = "rmsprop"

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """See `StepInC`; refuse an eps too small for float32, too."""
        return super().refuses_rule(rule) or _refuses_eps(expect(rule, RMSprop).eps)

    def states(self, rule: UpdateRule) -> list[str]:
        """The mean square."""
        return ["v"]

    def settings(self, rule: UpdateRule) -> tuple[list[float], list[int]]:
        """In the order of the class."""
        own = expect(rule, RMSprop)
        return [own.alpha, own.eps], []


class AdamInC(PlainRuleInC):
    """28 bytes of memory traffic a parameter, and 4 to look."""

    function = "adam"

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """See `StepInC`; refuse an eps too small for float32, too."""
        return super().refuses_rule(rule) or _refuses_eps(expect(rule, Adam).eps)

    def states(self, rule: UpdateRule) -> list[str]:
        """Both moments."""
        return ["m", "v"]

    def settings(self, rule: UpdateRule) -> tuple[list[float], list[int]]:
        """In the order of the class."""
        own = expect(rule, Adam)
        return [*own.betas, own.eps], []


def _refuses_eps(eps: float) -> str | None:
    return f"its eps is below {LEAST_EPS:g}" if eps < LEAST_EPS else None
