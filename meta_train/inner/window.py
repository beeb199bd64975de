"""The inner training of one outer step, as an estimator of the meta-gradient receives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meta_train.inner.batches import InnerData
from meta_train.inner.loop import InnerLoop
from meta_train.inner.meta_parameters import MetaParameters, connect_initialization
from meta_train.inner.state import InnerState


@dataclass(frozen=True)
class Window:
    """Consecutive inner steps of several runs: whole runs, or a truncation window of each.

    `Runs.begin` makes it and `Runs.end` takes the state after its last step.

    Attributes:
        meta_parameters: the meta-parameters.
        loop: takes the steps.
        inner: the state before the first step, without history, `[copies * runs, ...]`.
        data: batches for the steps.
        steps: how many inner steps.
        just_started: runs that have taken no step yet, `[copies * runs]` bool, on the CPU.
        carried: tensors that the estimator gave to `Runs.end` before, `[runs, ...]` by name.
        generators: one for each run, for random numbers of the estimator.
        runs_at_once: decides whether vectorised runs are faster (see `choose_vectorize`).
            Estimators that cannot take runs one by one need not ask.
    """

    meta_parameters: MetaParameters
    loop: InnerLoop
    inner: InnerState
    data: InnerData
    steps: int
    just_started: Tensor
    carried: Mapping[str, Tensor]
    generators: Sequence[torch.Generator]
    runs_at_once: Callable[[], bool]

    def state_with_grad(self) -> InnerState:
        """Return `inner` with a graph to the learned initialisation.

        The graph covers the parameters of runs that just started, and fixed tensors of all runs.
        Without a learned initialisation this is `inner`.
        """
        initialization = self.meta_parameters.initialization()
        return connect_initialization(self.inner, initialization, self.just_started)
