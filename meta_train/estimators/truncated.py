"""Truncated backpropagation through the unroll (Werbos 1990; Andrychowicz et al. 2016)."""

from __future__ import annotations

from meta_train.estimators.base import Estimate, MetaObjective
from meta_train.estimators.full import FullBackprop
from meta_train.inner.loop import InnerLoop
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs import Runs
from meta_train.inner.unroll import data_of
from meta_train.runtime.distributed import DistributedContext


class TruncatedBackprop(FullBackprop):
    """Unrolls one window of every run, differentiates, and lets the runs stand where it ended.

    States are carried on, gradients do not reach back into earlier windows, which biases them (Metz
    et al. 2019, arXiv 1810.10180). The last update of a window is judged by a batch of its own.

    Args:
        segment: see `FullBackprop`.
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
            raise ValueError("truncated backprop needs runs with a truncation_length")
        found = self.differentiator(runs)(
            runs.bind(loop),
            runs.state_with_grad(),
            data_of(runs, meta_objective.data, outer_step, end_only=meta_objective.end_only),
            truncation_length,
            meta_objective,
            list(meta_parameters.parameters()),
            self.segment_of(truncation_length),
        )
        return found.as_estimate(diverged=runs.advance(found.inner, truncation_length))
