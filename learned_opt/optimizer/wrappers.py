"""Finds the learned optimizer inside the wrapper of a training framework."""

from __future__ import annotations

from torch.optim import Optimizer

from learned_opt.optimizer.learned_optimizer import LearnedOptimizer


def unwrapped(optimizer: Optimizer) -> LearnedOptimizer:
    """The `LearnedOptimizer` inside the wrapper that accelerate makes, or the optimizer itself.

    Raises:
        TypeError: there is none inside.
    """
    inner: object = optimizer
    while not isinstance(inner, LearnedOptimizer):
        # The wrapper is an optimizer, too, and keeps what it wraps as `optimizer`.
        inner = getattr(inner, "optimizer", None) if isinstance(inner, Optimizer) else None
        if inner is None:
            raise TypeError(f"optimizer must be a LearnedOptimizer, got {type(optimizer).__name__}")
    return inner
