"""Persistent evolution strategies: short windows, no truncation bias."""

from __future__ import annotations

from dataclasses import replace

from meta_train.estimators.base import Estimate, MetaObjective
from meta_train.estimators.es import EvolutionStrategies
from meta_train.estimators.es_common import (
    antithetic_estimate,
    draw_noise,
    roll_out_pairs,
    value_by_run,
)
from meta_train.inner.loop import InnerLoop
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs import Runs
from meta_train.runtime.distributed import DistributedContext


class PersistentES(EvolutionStrategies):
    """Evolution strategies on windows (Vicol et al. 2021, arXiv 2112.13835, algorithm 2).

    Both runs of a pair go on from window to window, each under a new perturbation, and the
    difference of their losses in a window is credited to the sum of all perturbations since they
    began. Over an inner run this adds up to the gradient of the whole run's smoothed loss, at the
    cost and the memory of a window. For objectives that are sums over steps.

    Args:
        sigma: see `EvolutionStrategies`.
        clip: see there.
        penalty: see there.
    """

    continues = True

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
        truncation_length = runs.plan.truncation_length
        if truncation_length is None:
            raise ValueError("PES needs runs with a truncation_length")
        noise = draw_noise(meta_parameters, runs, outer_step, self.sigma)
        # Kept with the runs, so that a new run begins with none, and a checkpoint holds it.
        carried = runs.carried.get("noise")
        accumulated = noise if carried is None else carried + noise
        rollout = roll_out_pairs(
            meta_parameters, loop, runs, meta_objective, outer_step, noise, truncation_length
        )
        estimate = antithetic_estimate(
            meta_parameters,
            rollout,
            value_by_run(rollout, meta_objective, self.penalty),
            accumulated,
            self.sigma,
            distributed,
            penalty=self.penalty,
            clip=self.clip,
            diverged=0,
        )
        runs.carried["noise"] = accumulated
        return replace(estimate, diverged=runs.advance(rollout.inner, truncation_length))
