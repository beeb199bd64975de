"""The drop-in optimizer, a `torch.optim.Optimizer`, and the parts of its step.

`learned_optimizer.py` is the class. A step goes through `pending_updates.py` (the tensors that have
a gradient), `fused.py` (faster code for those that it fits), `rule_step.py` (the rule's own code
for the rest) and `finite_guard.py` (skips updates that are not finite). `evaluation_mode.py` swaps
averages in and out, `state_dict.py` loads state, `sharding.py` handles tensors of FSDP2.
"""

from learned_opt.optimizer.learned_optimizer import LearnedOptimizer

__all__ = ["LearnedOptimizer"]
