"""The record of one outer step: what the progress bar and TensorBoard show."""

from __future__ import annotations

from dataclasses import dataclass

from meta_train.outer.reduce import ReducedEstimate


@dataclass(frozen=True)
class OuterStepRecord:
    """One outer step.

    Attributes:
        outer_step: number of the step, from 1.
        estimate: the meta-gradient and its losses, over all runs of all processes.
        gradient_norm: norm of the meta-gradient before clipping.
        learning_rate: of the meta-optimizer in this step.
        horizon: mean length of this process's inner runs, in inner steps.
        families: name of the task of each group, in the order of `estimate.group_losses`.
        diverged: inner runs that diverged so far, in all outer steps.
        skipped: outer steps without an update so far.
    """

    outer_step: int
    estimate: ReducedEstimate
    gradient_norm: float
    learning_rate: float
    horizon: float
    families: tuple[str, ...]
    diverged: int
    skipped: int
