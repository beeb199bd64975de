"""Inner runs in progress: several problems of one task, each at its own age.

Truncated meta-training continues each run from window to window. Runs have different ages, so that
every window sees early and late training; a run that reaches its length or diverges is replaced.
For estimators of whole runs, all runs are replaced at every outer step.

All randomness comes from `RunSource`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from meta_train.inner.batches import BatchStream
from meta_train.inner.loop import InnerLoop
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.clocks import RunClocks
from meta_train.inner.runs.plan import RunPlan
from meta_train.inner.runs.restart_buffer import Kept, RestartBuffer
from meta_train.inner.runs.source import RunSource
from meta_train.inner.state import InnerState, check_alike, map_states, own_copy
from meta_train.inner.vectorize import VectorizeChoice, choose_vectorize
from meta_train.inner.window import Window
from meta_train.tasks.base import Problem, Task

__all__ = ["RunPlan", "Runs"]

SavedRuns: TypeAlias = dict[int, tuple[dict[str, Tensor], dict[str, Any]]]
"""Tensors and JSON-able facts by run index."""


class Runs:
    """A fixed number of inner runs of one task.

    A window of inner training has two doors: `begin` returns the `Window`, `end` takes the state
    after it.

    Args:
        meta_parameters: the rule, and the initialisation if it is learned.
        task: draws the problems.
        plan: how runs begin and end.
        indices: indices of these runs among the runs of all processes.
        total: number of runs in all processes.
        seed: random seed.
        device: where tensors live.
        progress: fraction of meta-training that is done, in [0, 1].
        outer_step: the one that is about to begin; whole runs are then drawn for it at once. None
            draws them anew when the first one begins.

    Attributes:
        inner: the stacked state, without history, `[copies * runs, ...]`, copy after copy.
        problems: the problem of each run.
        clocks: how far each run is.
        carried: tensors that an estimator keeps for each run, `[runs, ...]` by name; zeros for a
            new run.
        chosen: whether these runs go at once, once an estimator has asked.

    Raises:
        ValueError: the learned initialisation does not fit the task, or its problems have different
            tensors.
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
        outer_step: int | None = None,
    ) -> None:
        self.meta_parameters = meta_parameters
        self.plan = plan
        self.indices = list(indices)
        self.device = device
        self.progress = progress
        self.source = RunSource(meta_parameters, task, plan, seed, device)
        first = outer_step if outer_step is not None and plan.truncation_length is None else 0
        self.clocks = RunClocks(self.indices, first)
        lengths = [self.source.length(progress, *origin) for origin in self.clocks.origins]
        if plan.truncation_length is not None:
            # Spread the first ends: otherwise all runs would stay of one age.
            lengths = [
                max(plan.truncation_length, length * (index + 1) // total)
                for length, index in zip(lengths, self.indices, strict=True)
            ]
        self.clocks.lengths = lengths
        self.buffer = RestartBuffer(self.count)
        self.carried: dict[str, Tensor] = {}
        self.chosen: VectorizeChoice | None = None
        self.problems: list[Problem] = []
        for run in range(self.count):
            self.problems.append(self._problem(run))
        self.inner = map_states(own_copy, self.source.start(self.problems))  # rows are written to
        self._drawn_for = outer_step

    @property
    def count(self) -> int:
        """Number of runs, without copies."""
        return len(self.indices)

    def begin(
        self,
        settings: LoopSettings,
        outer_step: int,
        *,
        outer_data: str = "training",
        last_only: bool = False,
    ) -> Window:
        """Begin the inner training of an outer step; whole runs are all replaced first.

        Args:
            settings: how steps are taken.
            outer_step: part of every seed.
            outer_data: "training", "fresh", "validation" or "full"; see `MetaObjective.data`.
            last_only: see `InnerData`.

        Raises:
            ValueError: validation data of a task that has none.
        """
        steps = self.plan.truncation_length
        if steps is None:
            steps = self._replace_all(outer_step)
        data = self.source.data(
            self.problems, self.indices, outer_step, outer_data, last_only=last_only
        )
        return Window(
            meta_parameters=self.meta_parameters,
            loop=self.bind(settings),
            inner=self.inner,
            data=data,
            steps=steps,
            just_started=self._just_started(),
            carried=dict(self.carried),
            generators=[self.source.generator("noise", outer_step, k) for k in self.indices],
            runs_at_once=self._is_vectorized,
        )

    def end(self, inner: InnerState, carried: Mapping[str, Tensor] | None = None) -> int:
        """Take the state after a window. Truncated runs that are over are replaced.

        A run is over when it has reached its length or one of its copies has diverged.

        Args:
            inner: the state after the window's last step.
            carried: tensors to keep for the next window, `[runs, ...]` by name; whole runs have no
                next window and keep nothing.

        Returns:
            Number of diverged runs, copies counted.
        """
        self.inner = inner.detach()
        alive = self.inner.alive.reshape(self.plan.copies, -1)
        sound = alive.all(0).tolist()
        steps = self.plan.truncation_length
        if steps is None:
            self.clocks.finish()
            for run in range(self.count):
                self._keep_end(run, alive=sound[run])
        else:
            self.clocks.advance(steps)
            self.carried = {name: value.clone() for name, value in (carried or {}).items()}
            self._replace_finished(sound)
        return int((~alive).sum())

    def bind(self, settings: LoopSettings) -> InnerLoop:
        """Return the loop that takes inner steps of these runs."""
        return InnerLoop(
            self.meta_parameters.rule,
            self.problems[0].loss,
            vectorize=True,
            # A rule that keeps an average is for runs of unknown length: it gets no plan.
            total_steps=None if self.meta_parameters.rule.averages else self._planned_steps(),
            **vars(settings),
        )

    def first_begins(self) -> InnerState:
        """Return the first run alone, as it begins now, `[1, ...]`."""
        return map_states(lambda tensor: tensor[:1], self.source.start(self.problems[:1]))

    def stream(self, outer_step: int, purpose: str = "batches") -> BatchStream:
        """Return the batches of every run in an outer step.

        Args:
            outer_step: part of the seed.
            purpose: "batches" to train on, "fresh" for others of the same data, "validation" for
                data that inner training does not see, "full" for all training data.

        Raises:
            ValueError: validation data of a task that has none.
        """
        return self.source.stream(self.problems, self.indices, outer_step, purpose)

    def state_dict(self) -> SavedRuns:
        """Return tensors and JSON-able facts by run index."""
        saved = {}
        for run, index in enumerate(self.indices):
            tensors = {}
            if self.plan.truncation_length is not None:  # whole runs end with their outer step
                # Copies: rows are written over when a run is replaced.
                named = self.inner.named_tensors()
                tensors = {name: value[self._rows_of(run)].clone() for name, value in named}
            tensors.update({f"carried/{k}": v[run].clone() for k, v in self.carried.items()})
            ends, kept = self.buffer.state_dict(run)
            tensors.update({f"kept/{key}": value for key, value in ends.items()})
            saved[index] = tensors, {**self.clocks.state_dict(run), "kept": kept}
        return saved

    def load_state_dict(self, saved: SavedRuns) -> None:
        """Continue from the `state_dict` of these runs, which other processes may have saved.

        Raises:
            ValueError: some of these runs are missing.
        """
        missing = [index for index in self.indices if index not in saved]
        if missing:
            raise ValueError(f"the checkpoint does not hold runs {missing}: it has fewer runs")
        self.carried = {}
        self._drawn_for = None
        for run, index in enumerate(self.indices):
            tensors, facts = saved[index]
            tensors = {key: value.to(self.device) for key, value in tensors.items()}
            self.clocks.load_state_dict(run, facts)
            self.problems[run] = self._problem(run)
            if self.plan.truncation_length is not None:
                self._write(run, tensors)
            for name, value in _strip_prefix("carried/", tensors).items():
                shape = (self.count, *value.shape)
                self.carried.setdefault(name, value.new_zeros(shape))[run] = value
            self.buffer.load_state_dict(
                run, _strip_prefix("kept/", tensors), facts["kept"], self.inner
            )

    def _is_vectorized(self) -> bool:
        """Whether the runs go at once; the first call decides."""
        if self.chosen is None:
            self.chosen = choose_vectorize(
                self.meta_parameters.rule,
                self.problems[0],
                self.count,
                self.device,
                mode=self.plan.vectorize,
            )
        return self.chosen.vectorize

    def _just_started(self) -> Tensor:
        started = [self.clocks.taken(run) == 0 for run in range(self.count)]
        return torch.tensor(started * self.plan.copies)

    def _planned_steps(self) -> Tensor:
        """Planned number of steps of every run, `[copies * runs]`."""
        return torch.tensor(
            self.clocks.planned(self.plan.truncation_length or 1) * self.plan.copies,
            dtype=self.meta_parameters.rule.wide_dtype,
            device=self.device,
        )

    def _replace_all(self, outer_step: int) -> int:
        """Replace all runs by runs of one length; return the length."""
        length = self.source.length(self.progress, outer_step)
        self.clocks.lengths = [length] * self.count
        drawn_for, self._drawn_for = self._drawn_for, None
        if drawn_for == outer_step:
            return length
        kept = [self._begin(run, outer_step) for run in range(self.count)]
        if any(kept):
            states = [self._state_of(run, end) for run, end in enumerate(kept)]
            # Each is [copies, ...]; they are stacked copy after copy.
            self.inner = map_states(lambda *t: torch.stack(t, 1).flatten(0, 1), *states)
        else:
            self.inner = self.source.start(self.problems)
        return length

    def _replace_finished(self, alive: Sequence[bool]) -> None:
        """Replace runs that have diverged or reached their length."""
        over = [run for run in range(self.count) if not alive[run] or self.clocks.over(run)]
        if over:
            # Rows are written to. The caller still reads its tensors, and vmap may have returned
            # one row for all runs.
            self.inner = map_states(own_copy, self.inner)
        for run in over:
            self._keep_end(run, alive=alive[run])
            episode = self.clocks.episodes[run] + 1
            kept = self._begin(run, episode)
            self._write(run, dict(self._state_of(run, kept).named_tensors()))
            self.clocks.lengths[run] = self.source.length(self.progress, self.indices[run], episode)
            for value in self.carried.values():
                value[run] = 0

    def _begin(self, run: int, episode: int) -> Kept | None:
        """Draw a run's next problem, or an earlier end to continue; return that end."""
        source = self.source.generator("restart", self.indices[run], episode)
        kept = self.buffer.draw(run, self.plan.restart, source)
        self.clocks.begin(run, episode, kept)
        self.problems[run] = self._problem(run)
        return kept

    def _problem(self, run: int) -> Problem:
        """Draw the problem of a run's origin.

        Raises:
            ValueError: its tensors are others than those of another problem of the task.
        """
        problem = self.source.problem(*self.clocks.origins[run])
        if self.problems:
            check_alike(problem, self.problems[0])
        return problem

    def _state_of(self, run: int, kept: Kept | None) -> InnerState:
        """Return the state that a run begins with, `[copies, ...]`."""
        if kept is None:
            return self.source.start([self.problems[run]])
        return map_states(lambda t: t.expand(self.plan.copies, *t.shape[1:]), kept.inner)

    def _keep_end(self, run: int, *, alive: bool) -> None:
        if self.plan.restart and alive:
            inner = map_states(lambda t: t[run : run + 1].clone(), self.inner)
            self.buffer.keep(run, Kept(self.clocks.origins[run], self.clocks.taken(run), inner))

    def _rows_of(self, run: int) -> slice:
        """Rows of a run's copies."""
        return slice(run, None, self.count)

    def _write(self, run: int, named: Mapping[str, Tensor]) -> None:
        for name, target in self.inner.named_tensors():
            target[self._rows_of(run)] = named[name]


def _strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
