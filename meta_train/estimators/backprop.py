"""The base of estimators that backpropagate through inner training."""

from __future__ import annotations

from meta_train.estimators.base import Estimator, MetaGradient, MetaObjective
from meta_train.estimators.differentiate import best_checkpoint_steps, differentiate
from meta_train.estimators.differentiate_one_by_one import differentiate_one_by_one
from meta_train.estimators.objectives import mean_over_alive
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.window import Window
from meta_train.runtime.distributed import DistributedContext


class Backprop(Estimator):
    """Differentiates the objective through every step of a window.

    Args:
        checkpoint_steps: keep the state every this many steps and compute the steps between twice
            (gradient checkpointing, see `meta_train.estimators.differentiate.differentiate`): less
            memory, same gradient. 0 takes the square root of the number of steps; None keeps the
            whole graph.

    Raises:
        ValueError: a negative number.
    """

    def __init__(self, *, checkpoint_steps: int | None = None) -> None:
        if checkpoint_steps is not None and checkpoint_steps < 0:
            raise ValueError(f"checkpoint_steps must be at least 0, got {checkpoint_steps}")
        self.checkpoint_steps = checkpoint_steps

    def check(self, meta_parameters: MetaParameters) -> None:
        """Accept all meta-parameters."""

    def meta_gradient(
        self, window: Window, meta_objective: MetaObjective, distributed: DistributedContext
    ) -> MetaGradient:
        """See `Estimator`."""
        checkpoint_steps = self.checkpoint_steps
        if checkpoint_steps == 0:
            checkpoint_steps = best_checkpoint_steps(window.steps)
        take_derivative = differentiate if window.runs_at_once() else differentiate_one_by_one
        found = take_derivative(
            window.loop,
            window.state_with_grad(),
            window.data,
            window.steps,
            meta_objective,
            list(window.meta_parameters.parameters()),
            checkpoint_steps,
        )
        alive = found.inner.alive
        return MetaGradient(
            gradients=found.gradients,
            meta_loss=found.value,
            mean_loss=mean_over_alive(found.losses, alive),
            counted=int(alive.sum()),
            inner=found.inner,
        )
