"""The contract of an estimator of the meta-gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from meta_train.estimators.objectives import Objective
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.runs import Runs
from meta_train.inner.state import InnerState
from meta_train.inner.window import Window
from meta_train.runtime.distributed import DistributedContext


@dataclass(frozen=True)
class MetaObjective:
    """The objective of meta-training, and the data that it is evaluated on.

    Attributes:
        objective: one of `meta_train.estimators.objectives.OBJECTIVES`.
        data: "training" evaluates each step on the next training batch; "fresh" on a batch of its
            own; "validation" on data that inner training does not see; "full" on all training data.
        imitation: weight of the distance from the teacher's steps, which is added to the objective.
    """

    objective: Objective
    data: str = "training"
    imitation: float = 0.0


@dataclass(frozen=True)
class MetaGradient:
    """A meta-gradient of one window, as an estimator returns it.

    Attributes:
        gradients: one for each meta-parameter, means over the runs that count.
        meta_loss: the objective, 0-dim, mean over the same runs.
        mean_loss: the inner loss, 0-dim, mean over the same runs.
        counted: number of runs that count: those that did not diverge.
        inner: the state after the window, `[copies * runs, ...]`.
        carried: tensors to keep until the next window of each run, `[runs, ...]` by name.
    """

    gradients: list[Tensor]
    meta_loss: Tensor
    mean_loss: Tensor
    counted: int
    inner: InnerState
    carried: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """A meta-gradient and statistics of its runs.

    Attributes:
        gradients: one for each meta-parameter, means over the runs that count.
        meta_loss: the objective, 0-dim, mean over the same runs.
        mean_loss: the inner loss, 0-dim, mean over the same runs.
        counted: number of runs that count: those that did not diverge.
        diverged: number of runs that diverged, copies counted.
        inner_steps: inner steps taken, all runs together.
    """

    gradients: list[Tensor]
    meta_loss: Tensor
    mean_loss: Tensor
    counted: int
    diverged: int
    inner_steps: int


class Estimator(ABC):
    """Estimates the meta-gradient from inner training, for any rule, task and initialisation.

    A subclass sets the class attributes below and defines `check` and `meta_gradient`.
    """

    continues: ClassVar[bool] = False
    """Runs continue from one outer step to the next; otherwise each outer step takes whole runs."""

    copies: int = 1
    """Number of inner runs that share a problem and its batches."""

    second_order: ClassVar[bool | None] = None
    """Take second derivatives of the inner loss; None leaves it to the settings."""

    has_memory_modes: ClassVar[bool] = False
    """A memory budget may choose another mode (see `meta_train.estimators.memory_budget`)."""

    allows_zero_steps: ClassVar[bool] = False
    """Can evaluate the initialisation itself, without any inner step."""

    @final
    def estimate(
        self,
        meta_parameters: MetaParameters,
        settings: LoopSettings,
        runs: Runs,
        meta_objective: MetaObjective,
        outer_step: int,
        distributed: DistributedContext,
    ) -> Estimate:
        """Estimate the meta-gradient on one window of the runs; the runs stand after it then.

        Examples:
            estimator = create_estimator("full")
            runs = Runs(meta_parameters, task, RunPlan(Horizons([[20]])), ...)
            objective = MetaObjective(OBJECTIVES["log"])
            found = estimator.estimate(
                meta_parameters, LoopSettings(), runs, objective, 0, DistributedContext()
            )
            found.gradients  # one for each of meta_parameters.parameters()

        Args:
            meta_parameters: the meta-parameters of the runs.
            settings: how inner steps are taken.
            runs: this process's share of the runs.
            meta_objective: the objective to minimise.
            outer_step: part of the seed of every draw.
            distributed: the processes that share the runs. The caller averages the gradients; an
                estimator exchanges only sums that it needs over all runs.

        Raises:
            ValueError: the runs have other meta-parameters or another plan than the estimator
                needs; or `meta_gradient` returned gradients of other shapes than the
                meta-parameters have.
        """
        self._check_runs(runs, meta_parameters)
        window = runs.begin(
            settings,
            outer_step,
            outer_data=meta_objective.data,
            last_only=meta_objective.objective.reads_last_only,
        )
        found = self.meta_gradient(window, meta_objective, distributed)
        self._check_gradients(found.gradients, meta_parameters)
        return Estimate(
            gradients=found.gradients,
            meta_loss=found.meta_loss,
            mean_loss=found.mean_loss,
            counted=found.counted,
            diverged=runs.end(found.inner, found.carried),
            inner_steps=window.steps * len(found.inner.alive),
        )

    @abstractmethod
    def check(self, meta_parameters: MetaParameters) -> None:
        """Check that this estimator can train the meta-parameters.

        Raises:
            ValueError: it cannot; says why.
        """

    @abstractmethod
    def meta_gradient(
        self, window: Window, meta_objective: MetaObjective, distributed: DistributedContext
    ) -> MetaGradient:
        """Train through the window and return the meta-gradient.

        Args:
            window: the inner training to take; see `Window`.
            meta_objective: see `estimate`.
            distributed: see `estimate`.
        """

    def _check_gradients(
        self, gradients: Sequence[Tensor], meta_parameters: MetaParameters
    ) -> None:
        named = list(meta_parameters.named_parameters())
        name = type(self).__name__
        if len(gradients) != len(named):
            raise ValueError(
                f"{name} returned {len(gradients)} gradients for {len(named)} meta-parameters"
            )
        for (key, value), gradient in zip(named, gradients, strict=True):
            if gradient.shape != value.shape:
                raise ValueError(
                    f"{name} returned a gradient of shape {list(gradient.shape)} for {key}, "
                    f"{list(value.shape)}"
                )

    def _check_runs(self, runs: Runs, meta_parameters: MetaParameters) -> None:
        name = type(self).__name__
        if runs.meta_parameters is not meta_parameters:
            raise ValueError(f"{name} was given runs of other meta-parameters")
        if self.continues != (runs.plan.truncation_length is not None):
            needs = "with a truncation_length" if self.continues else "without truncation_length"
            raise ValueError(f"{name} needs runs {needs}")
        if runs.plan.copies != self.copies:
            raise ValueError(f"{name} needs {self.copies} copies of runs, got {runs.plan.copies}")


def combine(estimates: Sequence[Estimate]) -> Estimate:
    """Combine estimates over disjoint sets of runs into one over all of them."""
    counted = sum(estimate.counted for estimate in estimates)
    shares = [estimate.counted / max(counted, 1) for estimate in estimates]

    def mean(values: Sequence[Tensor]) -> Tensor:
        # Leave out values with share 0: they may not be finite.
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
