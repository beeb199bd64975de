"""Truncated backpropagation through the unroll (Werbos 1990; Andrychowicz et al. 2016)."""

from __future__ import annotations

from meta_train.estimators.base import Estimate, Judgement
from meta_train.estimators.full import FullBackprop
from meta_train.inner.loop import InnerLoop
from meta_train.inner.meta_parameters import Learner
from meta_train.inner.runs import Runs
from meta_train.inner.unroll import data_of
from meta_train.runtime.distributed import Ranks


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
        learner: Learner,
        loop: InnerLoop,
        runs: Runs,
        judgement: Judgement,
        outer_step: int,
        ranks: Ranks,
    ) -> Estimate:
        """See `Estimator`."""
        window = runs.plan.window
        if window is None:
            raise ValueError("truncated backprop needs runs with a window")
        found = self.differentiator(runs)(
            runs.equip(loop),
            runs.linked(),
            data_of(runs, judgement.data, outer_step, end_only=judgement.end_only),
            window,
            judgement,
            list(learner.parameters()),
            self.segment_of(window),
        )
        return found.as_estimate(diverged=runs.advance(found.inner, window))
