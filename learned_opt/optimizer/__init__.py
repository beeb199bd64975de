"""The drop-in optimizer, a `torch.optim.Optimizer`, and the parts of its step."""

from learned_opt.optimizer.learned_optimizer import LearnedOptimizer

__all__ = ["LearnedOptimizer"]
