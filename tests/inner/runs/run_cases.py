"""Inner runs of a small rule on quadratics, for tests of runs."""

import torch
from conftest import make_rule

from meta_train.estimators import MetaObjective, create_estimator
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.horizons import Horizons
from meta_train.inner.runs.runs import RunPlan, Runs
from meta_train.inner.state import map_states
from meta_train.runtime.distributed import DistributedContext
from meta_train.tasks import Quadratic

CPU = torch.device("cpu")

LOOP = LoopSettings(lr=0.1)


def small_meta_parameters(initialization=False):
    rule = make_rule("lstm", spread=0.2, hidden_sizes=(3,))
    return MetaParameters(rule, {"theta": torch.ones(3)} if initialization else None)


def make_runs(
    meta_parameters=None, steps=4, *, total=3, indices=None, seed=0, progress=0.0, **plan
):
    horizons = steps if isinstance(steps, Horizons) else Horizons([[steps]])
    return Runs(
        meta_parameters or small_meta_parameters(),
        Quadratic(dimensions=3),
        RunPlan(horizons, **plan),
        indices=range(total) if indices is None else indices,
        total=total,
        seed=seed,
        device=CPU,
        progress=progress,
    )


def estimate(name, runs, outer_step=0, **settings):
    estimator = create_estimator(name, **settings)
    how = MetaObjective(OBJECTIVES["sqrt"])
    return estimator.estimate(
        runs.meta_parameters, LOOP, runs, how, outer_step, DistributedContext()
    )


def begin(runs, outer_step=0, **how):
    return runs.begin(LOOP, outer_step, **how)


def moved(runs, by=1.0):
    """A state that is told apart from the one before."""
    return map_states(lambda t: t + by if t.is_floating_point() else t.clone(), runs.inner)
