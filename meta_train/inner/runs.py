"""Inner runs in progress: several problems of one task, each at its own age.

Truncated meta-training goes on from window to window where the last window left off. Runs are of
different ages, so that every window sees early and late training, and a run that reaches its
horizon or diverges is replaced. Where an estimator looks at whole runs, all are replaced at every
outer step.

Every draw is seeded by what it is for (seed, run, episode, outer step) and not by what was drawn
before, so a run is the same whichever process holds it, and there is no generator to save.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from meta_train.inner.batches import BatchStream, cast
from meta_train.inner.loop import InnerLoop
from meta_train.inner.meta_parameters import MetaParameters, link
from meta_train.inner.restart_buffer import Kept, RestartBuffer
from meta_train.inner.run_plan import RunPlan
from meta_train.inner.state import InnerState, map_states, start
from meta_train.inner.vectorize import Choice, choose_vectorize
from meta_train.runtime.seeding import generator
from meta_train.tasks.base import Problem, Task

__all__ = ["RunPlan", "Runs"]


class Runs:
    """A fixed number of inner runs of one task.

    Args:
        meta_parameters: the rule, which makes the optimizer state, and the initialisation, where
            one is learned.
        task: problems come from here.
        plan: how runs begin and end.
        indices: which runs these are, of all that all processes hold.
        total: how many runs all processes hold.
        seed: of every draw.
        device: where tensors live.
        progress: the share of meta-training that is over.

    Attributes:
        inner: the stacked state, without history, `[copies * runs, ...]`, copy after copy.
        ages: inner steps that each run has taken since it began.
        offsets: inner steps before that, in the run that it went on from.
        chosen: what `choice` said, once it was asked.
        carried: what an estimator keeps of each run, `[runs, ...]` by name; zeros for a new run.
    """

    def __init__(
        self,
        meta_parameters: MetaParameters,
        task: Task,
        plan: RunPlan,
        *,
        indices: Sequence[int],
        total: int,
        seed: int,
        device: torch.device,
        progress: float = 0.0,
    ) -> None:
        self.meta_parameters = meta_parameters
        self.task = task
        self.plan = plan
        self.indices = list(indices)
        self.seed = seed
        self.device = device
        self.episodes = [0] * len(self.indices)
        self.origins: list[tuple[int, int]] = [(index, 0) for index in self.indices]
        self.ages = [0] * len(self.indices)
        self.offsets = [0] * len(self.indices)
        self.buffer = RestartBuffer(len(self.indices))
        self.carried: dict[str, Tensor] = {}
        self.chosen: Choice | None = None
        self.progress = progress
        self.problems: list[Problem] = []
        self.lengths = [self._length(run) for run in range(len(self.indices))]
        if plan.truncation_length is not None:
            # Spread the ends of the first runs: otherwise all would stay of one age.
            self.lengths = [
                max(plan.truncation_length, length * (index + 1) // total)
                for length, index in zip(self.lengths, self.indices, strict=True)
            ]
            self.begin_all()

    def begin_all(self) -> None:
        """Let all runs begin where their origins say."""
        self.problems = [self.problem_of(origin) for origin in self.origins]
        # Rows of it are written over.
        self.inner: InnerState = map_states(_whole, self._start(self.problems))

    def bind(self, loop: InnerLoop) -> InnerLoop:
        """The same loop on the loss and the planned steps of these runs."""
        return replace(loop, loss=self.problems[0].loss, total_steps=self._totals())

    def first_begins(self) -> InnerState:
        """The first run alone, as it begins now, `[1, ...]`."""
        return map_states(lambda tensor: tensor[:1], self._start(self.problems[:1])).detach()

    def choice(self) -> Choice:
        """Whether to run these at once, from the work of one step; for estimators that can."""
        if self.chosen is None:
            self.chosen = choose_vectorize(
                self.meta_parameters.rule,
                self.problems[0],
                self.count,
                self.device,
                mode=self.plan.vectorize,
            )
        return self.chosen

    @property
    def count(self) -> int:
        """How many runs there are, copies not counted."""
        return len(self.indices)

    def problem_of(self, origin: tuple[int, int]) -> Problem:
        """The problem of a run and an episode."""
        index, episode = origin
        return self.task.sample(generator(self.seed, "problem", index, episode), self.device)

    def _length(self, run: int) -> int:
        source = generator(self.seed, "horizon", self.indices[run], self.episodes[run])
        return self.plan.horizons.sample(source, self.progress)

    def _start(self, problems: Sequence[Problem]) -> InnerState:
        problems = self.meta_parameters.place(problems)
        teacher = None if self.plan.teacher is None else self.plan.teacher.rule
        inner = start(self.meta_parameters.rule, problems, vectorize=True, teacher=teacher).detach()
        if self.plan.copies > 1:
            inner = map_states(lambda t: t.repeat(self.plan.copies, *([1] * (t.dim() - 1))), inner)
        return InnerState(
            cast(inner.parameters, self.plan.dtype),
            cast(inner.buffers, self.plan.dtype),
            inner.states,
            inner.alive,
            cast(inner.first_loss, self.plan.dtype),
            inner.teacher,
            cast(inner.fixed, self.plan.dtype),
        )

    def state_with_grad(self) -> InnerState:
        """The state, in which runs that begin now start at the learned initialisation itself.

        So that a meta-gradient reaches it; elsewhere this is `inner`. What inner training leaves as
        it is follows the learned initialisation at any age.
        """
        return link(self.inner, self.meta_parameters.initialization(), self.just_started())

    def just_started(self) -> Tensor:
        """Which runs have taken no step at all, `[copies * runs]`, on the CPU."""
        taken = [age + offset for age, offset in zip(self.ages, self.offsets, strict=True)]
        return torch.tensor([steps == 0 for steps in taken] * self.plan.copies)

    def stream(self, outer_step: int, purpose: str = "batches") -> BatchStream:
        """The batches of every run in this outer step.

        Args:
            outer_step: part of the seed.
            purpose: "batches" to train on, "fresh" for others of the same data, "validation" for
                data that inner training does not see.

        Raises:
            ValueError: validation data of a task that has none.
        """
        draws = [problem.draw for problem in self.problems]
        if purpose == "validation":
            held_out = [p.draw_validation for p in self.problems if p.draw_validation is not None]
            if len(held_out) < len(draws):
                raise ValueError(
                    f"task {type(self.task).__name__} has no validation data inside its problems: "
                    'use objective_data="training" or "fresh"'
                )
            draws = held_out
        sources = [generator(self.seed, purpose, outer_step, index) for index in self.indices]
        return BatchStream(draws, sources, self.plan.copies, self.plan.dtype)

    def _totals(self) -> Tensor:
        """The planned number of steps of every run, `[copies * runs]`."""
        truncation_length = self.plan.truncation_length or 1
        totals = [
            offset + -(-length // truncation_length) * truncation_length
            for offset, length in zip(self.offsets, self.lengths, strict=True)
        ]
        return torch.tensor(
            totals * self.plan.copies, dtype=self.meta_parameters.rule.dtype, device=self.device
        )

    def advance(self, inner: InnerState, steps: int) -> int:
        """Take over the state after a window; replace finished and diverged runs.

        Returns:
            How many runs had diverged, copies counted.
        """
        alive = inner.alive.reshape(self.plan.copies, -1)
        lives = alive.all(0).tolist()
        self.ages = [age + steps for age in self.ages]
        over = [k for k in range(self.count) if not lives[k] or self.ages[k] >= self.lengths[k]]
        self.inner = inner.detach()
        if over:
            # Rows are written over: not in the caller's tensors, which are read after this, and
            # not where vmap gave what is the same in all runs as one row.
            self.inner = map_states(_whole, self.inner)
        for run in over:
            self._replace(run, finished=lives[run])
        return int((~alive).sum())

    def reset(self, outer_step: int) -> int:
        """Replace all runs by ones of one length.

        Returns:
            The length.
        """
        source = generator(self.seed, "horizon", outer_step)
        length = self.plan.horizons.sample(source, self.progress)
        self.lengths = [length] * self.count
        if not self.plan.restart:
            for run in range(self.count):
                self._begin_afresh(run, outer_step)
            self.problems = [self.problem_of(origin) for origin in self.origins]
            self.inner = self._start(self.problems)
            return length
        self.problems = self.problems or [self.problem_of(origin) for origin in self.origins]
        states = [self._begin(run, outer_step) for run in range(self.count)]
        # Each is [copies, ...]; copy after copy they stand.
        self.inner = map_states(lambda *t: torch.stack(t, 1).flatten(0, 1), *states)
        return length

    def finish(self, inner: InnerState) -> int:
        """Take over the state at the end of whole runs.

        Returns:
            How many runs had diverged, copies counted.
        """
        self.inner = inner.detach()
        alive = self.inner.alive.reshape(self.plan.copies, -1)
        for run, lives in enumerate(alive.all(0).tolist()):
            self.ages[run] = self.lengths[run]
            if lives:
                self._keep(run)
        return int((~alive).sum())

    def _replace(self, run: int, *, finished: bool) -> None:
        if finished:
            self._keep(run)
        self._write(run, self._begin(run, self.episodes[run] + 1))
        self.lengths[run] = self._length(run)
        for value in self.carried.values():
            value[run] = 0

    def _begin(self, run: int, episode: int) -> InnerState:
        """Begin a run: afresh, or from where an earlier one ended; `[copies, ...]`."""
        index = self.indices[run]
        self._begin_afresh(run, episode)
        source = generator(self.seed, "restart", index, episode)
        kept = self.buffer.draw(run, self.plan.restart, source)
        if kept is not None:
            self.origins[run], self.offsets[run] = kept.origin, kept.age
            self.problems[run] = self.problem_of(kept.origin)
            return map_states(lambda t: t.expand(self.plan.copies, *t.shape[1:]), kept.inner)
        self.problems[run] = self.problem_of(self.origins[run])
        return self._start([self.problems[run]])

    def _begin_afresh(self, run: int, episode: int) -> None:
        self.episodes[run], self.ages[run], self.offsets[run] = episode, 0, 0
        self.origins[run] = self.indices[run], episode

    def _keep(self, run: int) -> None:
        if self.plan.restart:
            age = self.offsets[run] + self.ages[run]
            inner = map_states(lambda t: t[run : run + 1].clone(), self.inner)
            self.buffer.keep(run, Kept(self.origins[run], age, inner))

    def rows_of(self, run: int) -> slice:
        """Where the copies of a run are."""
        return slice(run, None, self.count)

    def _write(self, run: int, fresh: InnerState) -> None:
        named = dict(fresh.named_tensors())
        for name, target in self.inner.named_tensors():
            target[self.rows_of(run)] = named[name]


def _whole(tensor: Tensor) -> Tensor:
    """A copy of its own, every row in its place."""
    return tensor.clone(memory_format=torch.contiguous_format)
