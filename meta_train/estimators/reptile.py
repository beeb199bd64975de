"""Reptile: towards where inner training ends."""

from __future__ import annotations

from dataclasses import replace

import torch

from meta_train.estimators.base import Estimate, MetaObjective
from meta_train.estimators.initialization_only import InitializationOnly
from meta_train.estimators.objectives import meta_loss
from meta_train.inner.loop import InnerLoop
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs import Runs
from meta_train.inner.unroll import data_of, roll_out
from meta_train.runtime.distributed import DistributedContext


class Reptile(InitializationOnly):
    """g = phi - mean theta_T, so that a step of SGD at rate eps is Reptile's own.

    phi <- phi + eps mean (theta_T - phi), over the runs that did not diverge (Nichol et al. 2018,
    arXiv 1803.02999, algorithm 2). With one step of SGD at rate alpha this is alpha times the
    gradient of joint training.

    The objective is only reported: inner training makes its own loss small, and no imitation enters
    the gradient. It cannot learn parameters that inner training leaves as they are
    (`Problem.fixed`), and refuses them.

    Args:
        freeze_rule: see `InitializationOnly`.
    """

    def estimate(
        self,
        meta_parameters: MetaParameters,
        loop: InnerLoop,
        runs: Runs,
        meta_objective: MetaObjective,
        outer_step: int,
        distributed: DistributedContext,
    ) -> Estimate:
        """See `Estimator`."""
        steps = runs.reset(outer_step)
        still = sorted(runs.inner.fixed.keys() & meta_parameters.initialization().keys())
        if still:
            raise ValueError(
                f"Reptile learns what inner training moves, and that leaves {still} as they are: "
                "take another estimator"
            )
        loop = replace(runs.bind(loop), differentiable=False, teacher=None)
        with torch.no_grad():
            rollout = roll_out(
                loop,
                runs.inner,
                data_of(runs, meta_objective.data, outer_step, end_only=meta_objective.end_only),
                steps,
            )
            alive, counted = rollout.inner.alive, int(rollout.inner.alive.sum())
            away = {
                name: (phi - rollout.inner.parameters[name][alive]).sum(0) / max(counted, 1)
                for name, phi in meta_parameters.initialization().items()
            }
        return Estimate(
            gradients=self.gradients(meta_parameters, away),
            meta_loss=meta_loss(rollout.losses, alive, meta_objective.objective),
            mean_loss=meta_loss(rollout.losses, alive, lambda losses: losses),
            counted=counted,
            diverged=runs.finish(rollout.inner),
            inner_steps=rollout.imitation.numel(),
        )
