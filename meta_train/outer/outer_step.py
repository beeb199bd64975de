"""One outer step: the meta-gradient of all processes, applied to the meta-parameters."""

from __future__ import annotations

from dataclasses import replace

import torch

from meta_train.estimators import MetaObjective
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.inner.loop_settings import LoopSettings
from meta_train.outer.build import TrainerParts
from meta_train.outer.console import Console
from meta_train.outer.meta_optimizer import MetaOptimizer
from meta_train.outer.reduce import ReducedEstimate, reduce_estimates
from meta_train.outer.settings import TrainSettings
from meta_train.runtime.distributed import DistributedContext
from meta_train.runtime.seeding import generator


def reduced_estimate(
    parts: TrainerParts,
    outer_step: int,
    distributed: DistributedContext,
    console: Console,
    *,
    stop: bool,
    late: bool,
) -> ReducedEstimate:
    """Estimate the meta-gradient on the next window of all runs. All processes must call it.

    Args:
        parts: of the meta-training.
        outer_step: outer steps taken.
        distributed: the processes that share the runs.
        console: says how runs train, once.
        stop: this process received a stop signal.
        late: this process reached its time limit.

    Raises:
        ValueError: a negative loss with an objective that needs positive ones.
    """
    settings = parts.settings
    progress = outer_step / max(settings.outer_steps, 1)
    parts.groups.prepare(outer_step, progress)
    meta_objective = MetaObjective(
        OBJECTIVES[settings.objective],
        settings.objective_data,
        settings.imitation_weight(progress),
    )
    loop_settings = _loop_settings(parts, outer_step)
    estimates = [
        parts.estimator.estimate(
            parts.meta_parameters, loop_settings, runs, meta_objective, outer_step, distributed
        )
        for runs in parts.groups.runs
    ]
    console.say_how_runs_train(parts.groups)
    reduced = reduce_estimates(estimates, distributed, stop=stop, late=late)
    if not meta_objective.objective.any_sign and reduced.mean_loss < 0:
        raise ValueError(
            f"the inner loss is negative, but objective {settings.objective!r} needs positive "
            'losses: set objective="sum"'
        )
    return reduced


def _loop_settings(parts: TrainerParts, outer_step: int) -> LoopSettings:
    """How an outer step takes inner steps; it may hide the loss from the rule."""
    share = parts.settings.hide_loss
    source = generator(parts.settings.seed, "hide loss", outer_step)
    if share and float(torch.rand((), generator=source, dtype=torch.float32)) < share:
        return replace(parts.loop_settings, hide_loss=True)
    return parts.loop_settings


def why_stalled(
    settings: TrainSettings,
    meta_optimizer: MetaOptimizer,
    outer_step: int,
    *,
    gradient_norm: float,
    diverged: int,
) -> str | None:
    """Why meta-training learns nothing any more; None if it learns.

    Args:
        settings: say how many outer steps in a row may be skipped.
        meta_optimizer: has skipped them.
        outer_step: outer steps taken.
        gradient_norm: of the last step.
        diverged: inner runs that diverged in the last step.
    """
    limit = settings.max_consecutive_skips
    if meta_optimizer.skipped_in_a_row < limit:
        return None
    return (
        f"stopped after outer step {outer_step}: the last {limit} meta-gradients were not "
        "finite, were outliers, or came from diverged runs only (gradient norm "
        f"{gradient_norm:g}; {diverged} runs diverged in the last step). A lower lr, a shorter "
        "horizon or estimator es may help"
    )
