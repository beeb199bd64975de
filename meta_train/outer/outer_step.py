"""Estimates the meta-gradient of an outer step, and says when meta-training has stalled."""

from __future__ import annotations

from dataclasses import replace

import torch

from meta_train.estimators import MetaObjective
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.inner.loop_settings import LoopSettings
from meta_train.outer.build import TrainerParts
from meta_train.outer.console import Console
from meta_train.outer.record import OuterStepRecord
from meta_train.outer.reduce import ReducedEstimate, reduce_estimates
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


def why_stalled(record: OuterStepRecord, skipped_in_a_row: int, limit: int) -> str | None:
    """Why meta-training learns nothing any more; None if it learns.

    Args:
        record: of the last outer step.
        skipped_in_a_row: outer steps without an update up to that step.
        limit: as many of them stop meta-training.
    """
    if skipped_in_a_row < limit:
        return None
    return (
        f"stopped after outer step {record.outer_step}: the last {limit} meta-gradients were not "
        "finite, were outliers, or came from diverged runs only (gradient norm "
        f"{record.gradient_norm:g}; {record.estimate.diverged} runs diverged in the last step). "
        "A lower lr, a shorter horizon or estimator es may help"
    )
