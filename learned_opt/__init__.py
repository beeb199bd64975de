"""Drop-in PyTorch optimizers, hand-designed or learned: use one in place of Adam.

Examples:
    >>> from learned_opt import LearnedOptimizer
    >>> optimizer = LearnedOptimizer(model.parameters())
    >>> optimizer.step()  # after loss.backward(), as with any torch.optim optimizer

`learned_opt.differentiable`, imported apart, lets `higher` unroll it.
"""

from learned_opt.adaptation import (
    Initialization,
    adapt,
    list_initializations,
    load_initialization,
    save_initialization,
)
from learned_opt.explanation import Explanation, explain
from learned_opt.monitoring.monitor import GateMonitor
from learned_opt.optimizer.learned_optimizer import LearnedOptimizer
from learned_opt.rules import UpdateRule, create_rule, list_rules
from learned_opt.weights import (
    from_pretrained,
    list_pretrained,
    load_card,
    load_rule,
    save_rule,
)

__all__ = [
    "Explanation",
    "GateMonitor",
    "Initialization",
    "LearnedOptimizer",
    "UpdateRule",
    "adapt",
    "create_rule",
    "explain",
    "from_pretrained",
    "list_initializations",
    "list_pretrained",
    "list_rules",
    "load_card",
    "load_initialization",
    "load_rule",
    "save_initialization",
    "save_rule",
]
__version__ = "0.1.0"
