"""The drop-in optimizer, a `torch.optim.Optimizer`, and what its step is made of."""

from learned_opt.optimizer.learned_optimizer import LearnedOptimizer

__all__ = ["LearnedOptimizer"]
