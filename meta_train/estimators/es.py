"""Evolution strategies over whole inner runs."""

from __future__ import annotations

from meta_train.estimators.base import Estimate, Estimator, MetaObjective
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


class EvolutionStrategies(Estimator):
    """Antithetic evolution strategies (Rechenberg 1973; Salimans et al. 2017, arXiv 1703.03864).

    g = mean over pairs of (F(theta + eps) - F(theta - eps)) / (2 sigma^2) eps, eps ~ N(0, sigma^2):
    an unbiased gradient of F smoothed by the noise, which long or chaotic inner training does not
    blow up (Metz et al. 2019, arXiv 1810.10180). No graph is kept: memory is that of one step.

    Args:
        sigma: standard deviation of the perturbations.
        clip: where given, each difference is divided by the root mean square over a group's pairs
            and clipped at this: pairs on tasks of any scale count alike, and the gradient has a
            length that does not depend on the objective's.
        penalty: every loss of a run that diverges counts as this times its first loss's size; by
            default its pair is left out.
    """

    copies = 2

    def __init__(
        self, *, sigma: float = 0.05, clip: float | None = None, penalty: float | None = None
    ) -> None:
        for name, value in (("sigma", sigma), ("clip", clip), ("penalty", penalty)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.sigma = sigma
        self.clip = clip
        self.penalty = penalty

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
        noise = draw_noise(meta_parameters, runs, outer_step, self.sigma)
        rollout = roll_out_pairs(
            meta_parameters, loop, runs, meta_objective, outer_step, noise, steps
        )
        return antithetic_estimate(
            meta_parameters,
            rollout,
            value_by_run(rollout, meta_objective, self.penalty),
            noise,
            self.sigma,
            distributed,
            penalty=self.penalty,
            clip=self.clip,
            diverged=runs.finish(rollout.inner),
        )
