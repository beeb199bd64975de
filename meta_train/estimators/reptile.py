"""Reptile: moves the initialisation towards the weights that inner training reaches."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch

from meta_train.estimators.base import MetaGradient, MetaObjective
from meta_train.estimators.initialization_only import InitializationOnly
from meta_train.estimators.objectives import mean_over_alive, meta_loss
from meta_train.inner.unroll import roll_out
from meta_train.inner.window import Window
from meta_train.runtime.distributed import DistributedContext


@final
class Reptile(InitializationOnly):
    """g = theta_0 - mean theta_T, so that a step of SGD with learning rate eps is Reptile's own.

    theta_0 <- theta_0 + eps mean (theta_T - theta_0), over the runs that did not diverge (Nichol et
    al. 2018, arXiv 1803.02999, algorithm 2). With one inner step of SGD at learning rate alpha this
    is alpha times the gradient of joint training.

    The objective is only reported: inner training minimises its own loss. Imitation does not count.
    Reptile cannot learn parameters that inner training does not change (`Problem.fixed`), and
    refuses them.

    Args:
        freeze_rule: see `InitializationOnly`.
    """

    def meta_gradient(
        self, window: Window, meta_objective: MetaObjective, distributed: DistributedContext
    ) -> MetaGradient:
        """See `Estimator`.

        Raises:
            ValueError: the initialisation has parameters that inner training does not change.
        """
        initialization = window.meta_parameters.initialization()
        unchanged = sorted(window.inner.fixed.keys() & initialization.keys())
        if unchanged:
            raise ValueError(
                f"Reptile learns only what inner training changes, and it does not change "
                f"{unchanged}: take another estimator"
            )
        loop = replace(window.loop, differentiable=False, teacher=None)
        with torch.no_grad():
            rollout = roll_out(loop, window.inner, window.data, window.steps)
            alive = rollout.inner.alive
            counted = int(alive.sum())
            away = {
                name: (start - rollout.inner.parameters[name][alive]).sum(0) / max(counted, 1)
                for name, start in initialization.items()
            }
        return MetaGradient(
            gradients=self.gradients(window.meta_parameters, away),
            meta_loss=meta_loss(rollout.losses, alive, meta_objective.objective),
            mean_loss=mean_over_alive(rollout.losses, alive),
            counted=counted,
            inner=rollout.inner,
        )
