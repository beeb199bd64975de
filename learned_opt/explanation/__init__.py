"""Pictures and sentences that say what an optimizer does with gradients.

`explain.py` is the function, and `explanation.py` its result. `measurements/` makes the numbers and
sentences, `drawing/` the page.
"""

from learned_opt.explanation.explain import explain
from learned_opt.explanation.explanation import Explanation

__all__ = ["Explanation", "explain"]
