"""Backpropagation through whole inner runs."""

from __future__ import annotations

from collections.abc import Callable

from meta_train.estimators.backprop import Derivative, best_segment, differentiate
from meta_train.estimators.backprop_sequential import differentiate_one_by_one
from meta_train.estimators.base import Estimate, Estimator, MetaObjective
from meta_train.inner.loop import InnerLoop
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs import Runs
from meta_train.inner.unroll import data_of
from meta_train.runtime.distributed import DistributedContext


class FullBackprop(Estimator):
    """Differentiates through every step of inner training: exact, at the memory of all steps.

    With a learned initialisation and SGD this is MAML (Finn et al. 2017, arXiv 1703.03400, eq. 1).

    Args:
        segment: recompute segments of so many steps, which bounds memory and changes nothing else
            (see `meta_train.estimators.backprop.differentiate`); 0 takes the square root of the
            number of steps, None keeps everything.
    """

    def __init__(self, *, segment: int | None = None) -> None:
        if segment is not None and segment < 0:
            raise ValueError(f"segment must be at least 0, got {segment}")
        self.segment = segment

    def segment_of(self, steps: int) -> int | None:
        """How many of so many steps are recomputed at once; None for none."""
        return best_segment(steps) if self.segment == 0 else self.segment

    def differentiator(self, runs: Runs) -> Callable[..., Derivative]:
        """How to differentiate through these runs: at once, or one by one."""
        return differentiate if runs.choice().vectorize else differentiate_one_by_one

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
        found = self.differentiator(runs)(
            runs.bind(loop),
            runs.state_with_grad(),
            data_of(runs, meta_objective.data, outer_step, end_only=meta_objective.end_only),
            steps,
            meta_objective,
            list(meta_parameters.parameters()),
            self.segment_of(steps),
        )
        return found.as_estimate(diverged=runs.finish(found.inner))
