"""Steps in C of hand-made rules."""

from __future__ import annotations

from abc import ABC

from torch import Tensor

from learned_opt.backends.coordinate_rules import CoordinateStepInC
from learned_opt.rules.adaptive import Adam, RMSprop
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.sgd import SGD, Momentum

LEAST_EPS = 1e-20
"""Below it, the bound on an update is no number in float32."""


class PlainRuleInC(CoordinateStepInC, ABC):
    """Abstract: a rule without a network; see `c/plain_rules.c`."""

    def weights(self, rule: UpdateRule) -> list[Tensor]:
        """None."""
        return []


class SGDInC(PlainRuleInC):
    """12 bytes of memory traffic a parameter, and 8 to look at what it reads."""

    function = "sgd"

    def states(self, rule: UpdateRule) -> list[str]:
        """None."""
        return []

    def settings(self, rule: UpdateRule) -> tuple[list[float], list[int]]:
        """None."""
        if not isinstance(rule, SGD):
            raise TypeError(f"expected an SGD, got {type(rule).__name__}")
        return [], []


class MomentumInC(PlainRuleInC):
    """20 bytes of memory traffic a parameter, and 8 to look."""

    function = "momentum"

    def states(self, rule: UpdateRule) -> list[str]:
        """The momentum buffer."""
        return ["m"]

    def settings(self, rule: UpdateRule) -> tuple[list[float], list[int]]:
        """In the order of the class."""
        if not isinstance(rule, Momentum):
            raise TypeError(f"expected a Momentum, got {type(rule).__name__}")
        return [rule.momentum, rule.dampening, float(rule.nesterov)], []


class RMSpropInC(PlainRuleInC):
    """20 bytes of memory traffic a parameter, and 8 to look."""

    function = "rmsprop"
    nonnegative = ("v",)

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """See `StepInC`; refuse an eps too small for float32, too."""
        return super().refuses_rule(rule) or _refuses_eps(_rmsprop(rule).eps)

    def states(self, rule: UpdateRule) -> list[str]:
        """The mean square."""
        return ["v"]

    def settings(self, rule: UpdateRule) -> tuple[list[float], list[int]]:
        """In the order of the class."""
        return [_rmsprop(rule).alpha, _rmsprop(rule).eps], []


class AdamInC(PlainRuleInC):
    """28 bytes of memory traffic a parameter, and 8 to look."""

    function = "adam"
    nonnegative = ("v",)

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """See `StepInC`; refuse an eps too small for float32, too."""
        return super().refuses_rule(rule) or _refuses_eps(_adam(rule).eps)

    def states(self, rule: UpdateRule) -> list[str]:
        """Both moments."""
        return ["m", "v"]

    def settings(self, rule: UpdateRule) -> tuple[list[float], list[int]]:
        """In the order of the class."""
        return [*_adam(rule).betas, _adam(rule).eps], []


def _refuses_eps(eps: float) -> str | None:
    return f"its eps is below {LEAST_EPS:g}" if eps < LEAST_EPS else None


def _adam(rule: UpdateRule) -> Adam:
    if not isinstance(rule, Adam):
        raise TypeError(f"expected an Adam, got {type(rule).__name__}")
    return rule


def _rmsprop(rule: UpdateRule) -> RMSprop:
    if not isinstance(rule, RMSprop):
        raise TypeError(f"expected an RMSprop, got {type(rule).__name__}")
    return rule
