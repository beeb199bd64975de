"""The runs of a benchmark, in the order in which they are made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meta_train.evaluation.benchmark.contestants.contestant import Contestant, Setting
from meta_train.evaluation.benchmark.contestants.registry import REFERENCE
from meta_train.evaluation.benchmark.games import Game
from meta_train.evaluation.benchmark.records import (
    TUNING_SEED,
    Records,
    RunKey,
    run_key,
)
from meta_train.evaluation.benchmark.training import Trained
from meta_train.evaluation.benchmark.workload import BenchmarkTask

FACTORS = (1 / 3, 3.0)
"""Factors on the step size in the test of sensitivity."""

TOLD = (0.5, 2.0)
"""Numbers of steps that an optimizer is told there, as multiples of the true one."""


@dataclass(frozen=True)
class Entry:
    """A contestant at its default, or tuned for every task."""

    contestant: Contestant
    tuned: bool

    @property
    def title(self) -> str:
        """Name in tables and pictures."""
        if not self.contestant.trials:
            return self.contestant.title
        return f"{self.contestant.title}, {'tuned' if self.tuned else 'default'}"


@dataclass(frozen=True)
class Plan:
    """The runs of a benchmark.

    Attributes:
        tasks: the tasks.
        games: the games, played with defaults only.
        contestants: the optimizers.
        seeds: number of scored seeds.
        trials: most settings that are tried in tuning.
        sensitivity: whether to vary step sizes and the number of steps that is told.
    """

    tasks: Sequence[BenchmarkTask]
    games: Sequence[Game]
    contestants: Sequence[Contestant]
    seeds: int
    trials: int
    sensitivity: bool

    def steps(self) -> dict[str, int]:
        """Training steps by name of a task or a game."""
        tasks = {task.name: task.steps for task in self.tasks}
        return {**tasks, **{game.name: game.steps for game in self.games}}

    def entries(self) -> list[Entry]:
        """All contestants, in the order in which they are wanted."""
        own = [Entry(c, False) for c in self.contestants if not c.trials]
        default = [Entry(c, False) for c in self.contestants if c.trials]
        tuned = [Entry(c, True) for c in self.contestants if c.trials]
        first = [entry for entry in tuned if entry.contestant.name == REFERENCE]
        return [*own, *first, *default, *(entry for entry in tuned if entry not in first)]

    def settings_to_try(self, contestant: Contestant) -> Sequence[Setting]:
        """The settings to tune over: the likeliest, if there may only be a few."""
        return contestant.trials[: self.trials]

    def trial_keys(self, task: BenchmarkTask, contestant: Contestant) -> list[RunKey]:
        """The runs among which a tuned setting is chosen."""
        return [
            run_key(task.name, contestant.name, setting, TUNING_SEED)
            for setting in self.settings_to_try(contestant)
        ]

    def setting(self, entry: Entry, task: BenchmarkTask, records: Records) -> Setting | None:
        """The setting that is scored; None before all trials have ended.

        A tuned one has the lowest final training loss on the seed for tuning.
        """
        if not entry.tuned:
            return entry.contestant.default
        keys = self.trial_keys(task, entry.contestant)
        results = [records.get(key) for key in keys]
        if None in results:
            return None
        finals = [
            r.losses[-1] if isinstance(r, Trained) and not r.diverged else math.inf for r in results
        ]
        return dict(keys[finals.index(min(finals))].setting)

    def scored(self, entry: Entry, task: BenchmarkTask, records: Records) -> list[RunKey]:
        """The scored runs; empty before their setting is known."""
        setting = self.setting(entry, task, records)
        if setting is None:
            return []
        return [
            run_key(task.name, entry.contestant.name, setting, seed) for seed in range(self.seeds)
        ]

    def varied(
        self, entry: Entry, task: BenchmarkTask, records: Records
    ) -> dict[str, tuple[RunKey, RunKey]]:
        """Runs of the first seed at other step sizes and told numbers of steps.

        Returns:
            By what was varied: the run, and the run that it is compared with.
        """
        setting = self.setting(entry, task, records)
        if setting is None:
            return {}
        name, contestant = entry.contestant.name, entry.contestant
        base = run_key(task.name, name, setting, 0)
        found = {
            f"step size x {factor:.2g}": (
                run_key(task.name, name, contestant.scaled(setting, factor), 0),
                base,
            )
            for factor in FACTORS
        }
        if contestant.told_steps:
            for told in TOLD:
                key = run_key(task.name, name, setting, 0, told=told)
                found[f"steps x {told:g}"] = (key, base)
        return found

    def game_keys(self, contestant: Contestant) -> list[RunKey]:
        """The games of a contestant."""
        return [
            run_key(game.name, contestant.name, contestant.default, seed)
            for game in self.games
            for seed in range(self.seeds)
        ]

    def wanted(self, records: Records) -> Iterator[RunKey]:
        """All runs whose setting is known, in the order in which they are wanted."""
        for entry in self.entries():
            if not entry.tuned:
                for seed in range(self.seeds):
                    for task in self.tasks:
                        yield self.scored(entry, task, records)[seed]
                continue
            for task in self.tasks:
                yield from self.trial_keys(task, entry.contestant)
                yield from self.scored(entry, task, records)
        for contestant in self.contestants:
            yield from self.game_keys(contestant)
        if self.sensitivity:
            for entry in self.entries():
                if entry.tuned == bool(entry.contestant.trials):
                    for task in self.tasks:
                        for varied, _ in self.varied(entry, task, records).values():
                            yield varied

    def done(self, records: Records) -> int:
        """Number of wanted runs that are recorded; a record may hold runs of other plans."""
        return len({key for key in self.wanted(records) if records.get(key) is not None})

    def count(self) -> int:
        """Number of runs, those included whose setting is not known yet.

        Runs that are both a trial's setting and a default count twice where they coincide.
        """
        tasks, total = len(self.tasks), 0
        for entry in self.entries():
            total += tasks * self.seeds
            if entry.tuned:
                total += tasks * len(self.settings_to_try(entry.contestant))
            if self.sensitivity and entry.tuned == bool(entry.contestant.trials):
                told = len(TOLD) if entry.contestant.told_steps else 0
                total += tasks * (len(FACTORS) + told)
        return total + len(self.contestants) * len(self.games) * self.seeds
