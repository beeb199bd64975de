"""Draws everything that inner runs need: problems, first states, lengths and batches.

Every draw is seeded by its purpose (seed, run, episode, outer step), not by earlier draws. So a run
is the same in whichever process it lives, and no generator needs to be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from meta_train.inner.batches import BatchStream, InnerData
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.plan import RunPlan
from meta_train.inner.state import InnerState, map_states, start
from meta_train.runtime.seeding import derive_seed, generator
from meta_train.tasks.base import Batch, Problem, Task
from meta_train.tasks.reparametrized import Reparametrized


@dataclass(frozen=True)
class RunSource:
    """Draws for the runs of one task.

    Attributes:
        meta_parameters: the rule, and the initialisation if it is learned.
        task: draws the problems.
        plan: how runs begin and end.
        seed: random seed.
        device: where tensors live.
    """

    meta_parameters: MetaParameters
    task: Task
    plan: RunPlan
    seed: int
    device: torch.device

    def generator(self, purpose: str, *path: int) -> torch.Generator:
        """Return the generator of a purpose."""
        return generator(self.seed, purpose, *path)

    def length(self, progress: float, *path: int) -> int:
        """Draw a length in inner steps; `path` is a run and an episode, or an outer step."""
        return self.plan.horizons.sample(self.generator("horizon", *path), progress)

    def problem(self, run: int, episode: int) -> Problem:
        """Draw the problem of a run and an episode."""
        return self.task.sample(self.generator("problem", run, episode), self.device)

    def start(self, problems: Sequence[Problem]) -> InnerState:
        """Return the state before the first step, `[copies * problems, ...]`.

        Raises:
            ValueError: the learned initialisation does not fit the problems.
        """
        problems = self.meta_parameters.place(problems)
        teacher = None if self.plan.teacher is None else self.plan.teacher.rule
        inner = start(self.meta_parameters.rule, problems, vectorize=True, teacher=teacher).detach()
        if self.plan.copies > 1:
            inner = map_states(lambda t: t.repeat(self.plan.copies, *([1] * (t.dim() - 1))), inner)
        return inner.cast(self.plan.dtype)

    def stream(
        self, problems: Sequence[Problem], runs: Sequence[int], outer_step: int, purpose: str
    ) -> BatchStream:
        """Return the batches of several runs in an outer step; see `Runs.stream`.

        Raises:
            ValueError: validation data of a task that has none.
        """
        draws = [problem.draw for problem in problems]
        if purpose == "validation":
            held_out = [p.draw_validation for p in problems if p.draw_validation is not None]
            if len(held_out) < len(draws):
                task = self.task.task if isinstance(self.task, Reparametrized) else self.task
                raise ValueError(
                    f"task {type(task).__name__} has no validation data inside its problems: "
                    'use objective_data="training" or "fresh"'
                )
            draws = held_out
        if purpose == "full":
            draws = [_ignoring_generator(problem.full) for problem in problems]
        sources = [self.generator(purpose, outer_step, run) for run in runs]
        return BatchStream(draws, sources, self.plan.copies, self.plan.dtype)

    def data(
        self,
        problems: Sequence[Problem],
        runs: Sequence[int],
        outer_step: int,
        outer_data: str,
        *,
        last_only: bool,
    ) -> InnerData:
        """Return all data of several runs in an outer step; see `Runs.begin`.

        Raises:
            ValueError: validation data of a task that has none.
        """
        outer_batches = None
        if outer_data != "training":
            outer_batches = self.stream(problems, runs, outer_step, outer_data)
        share = runs[:1] if runs[0] else []  # processes with other runs draw other numbers
        return InnerData(
            training=self.stream(problems, runs, outer_step, "batches"),
            outer_batches=outer_batches,
            seed=derive_seed(self.seed, "randomness", outer_step, *share),
            last_only=last_only,
        )


def _ignoring_generator(full: Callable[[], Batch]) -> Callable[[torch.Generator], Batch]:
    """All data at every draw."""
    return lambda _: full()
