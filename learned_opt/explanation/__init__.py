"""Pictures and sentences that say what an optimizer does with gradients."""

from learned_opt.explanation.explain import explain
from learned_opt.explanation.explanation import Explanation

__all__ = ["Explanation", "explain"]
