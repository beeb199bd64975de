"""What an estimator of the meta-gradient is given, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meta_train.estimators.objectives import END_ONLY, Objective
from meta_train.inner.loop import InnerLoop
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs import Runs
from meta_train.runtime.distributed import DistributedContext


@dataclass(frozen=True)
class MetaObjective:
    """How inner training is judged.

    Attributes:
        objective: one of `meta_train.estimators.objectives.OBJECTIVES`.
        data: "training" judges each step by the next batch that is trained on; "fresh" by a batch
            of its own; "validation" by data that inner training does not see.
        imitation: weight of the distance from the teacher's steps, added to the objective.
    """

    objective: Objective
    data: str = "training"
    imitation: float = 0.0

    @property
    def end_only(self) -> bool:
        """Whether the last loss is all that counts."""
        return self.objective in END_ONLY


@dataclass(frozen=True)
class Estimate:
    """One outer gradient, and what was seen on the way.

    Attributes:
        gradients: one per meta-parameter: means over the runs that count.
        meta_loss: 0-dim, mean over the same runs.
        mean_loss: mean inner loss of the same runs, 0-dim.
        counted: how many runs count: those that did not diverge.
        diverged: runs that did.
        inner_steps: inner steps taken, all runs together.
    """

    gradients: list[Tensor]
    meta_loss: Tensor
    mean_loss: Tensor
    counted: int
    diverged: int
    inner_steps: int


class Estimator(ABC):
    """Draws an outer gradient from inner training: any rule, any task, any initialisation."""

    continues: ClassVar[bool] = False
    """Whether runs go on from one outer step to the next; otherwise each sees whole runs."""

    copies: ClassVar[int] = 1
    """Inner runs that share a problem and its batches."""

    second_order: ClassVar[bool | None] = None
    """Whether second derivatives of the inner loss are taken; None leaves it to the settings."""

    def check(self, meta_parameters: MetaParameters) -> None:
        """Refuse meta-parameters that it cannot give a gradient of.

        Raises:
            ValueError: says why.
        """
        return None

    @abstractmethod
    def estimate(
        self,
        meta_parameters: MetaParameters,
        loop: InnerLoop,
        runs: Runs,
        meta_objective: MetaObjective,
        outer_step: int,
        distributed: DistributedContext,
    ) -> Estimate:
        """Estimate the meta-gradient on these runs, and let the runs stand where that ended.

        Args:
            meta_parameters: the meta-parameters.
            loop: its rule is the one among the meta-parameters.
            runs: this process's share of the runs.
            meta_objective: what to make smaller.
            outer_step: seeds every draw.
            distributed: the processes that share the runs. The caller averages the gradients; an
                estimator exchanges only the sums that it needs of the other processes' runs.
        """


def combine(estimates: Sequence[Estimate]) -> Estimate:
    """The estimate over all runs, from those over some of the runs each."""
    counted = sum(estimate.counted for estimate in estimates)
    shares = [estimate.counted / max(counted, 1) for estimate in estimates]

    def mean(values: Sequence[Tensor]) -> Tensor:
        # What counts for nothing is left out: it may not be finite.
        scaled = [share * value for share, value in zip(shares, values, strict=True) if share]
        return torch.stack(scaled).sum(0) if scaled else torch.zeros_like(values[0])

    return Estimate(
        gradients=[mean(g) for g in zip(*(e.gradients for e in estimates), strict=True)],
        meta_loss=mean([e.meta_loss for e in estimates]),
        mean_loss=mean([e.mean_loss for e in estimates]),
        counted=counted,
        diverged=sum(e.diverged for e in estimates),
        inner_steps=sum(e.inner_steps for e in estimates),
    )
