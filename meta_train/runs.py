"""Inner runs in progress: several problems of one task, each at its own age.

Truncated meta-training goes on from window to window where the last window left off. Runs are of
different ages, so that every window sees early and late training, and a run that reaches its
horizon or diverges is replaced by a fresh problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from learned_opt.rules.base import UpdateRule
from meta_train.seeding import generator
from meta_train.tasks.base import Batch, Problem, Task
from meta_train.unroll import InnerState, stack, start


class Runs:
    """A fixed number of inner runs under one rule.

    Args:
        rule: makes the optimizer state.
        task: problems come from here.
        count: how many runs.
        horizons: a run's length in inner steps is drawn from these.
        window: inner steps per outer step; horizons are rounded up to whole windows.
        seed: of every draw.
        device: where tensors live.

    Attributes:
        inner: the stacked state, without history, `[count, ...]`.
        ages: inner steps that each run has taken.
    """

    def __init__(
        self,
        rule: UpdateRule,
        task: Task,
        *,
        count: int,
        horizons: Sequence[int],
        window: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.rule = rule
        self.task = task
        self.horizons = list(horizons)
        self.window = window
        self.seed = seed
        self.device = device
        self.episodes = [0] * count
        self.ages = [0] * count
        self.problems = [self._problem(run) for run in range(count)]
        # Spread the ends of the first runs: otherwise all would stay of one age.
        self.lengths = [max(window, self._length(run) * (run + 1) // count) for run in range(count)]
        self.inner: InnerState = start(rule, self.problems, vectorize=True)

    def _problem(self, run: int) -> Problem:
        source = generator(self.seed, "problem", run, self.episodes[run])
        return self.task.sample(source, self.device)

    def _length(self, run: int) -> int:
        source = generator(self.seed, "horizon", run, self.episodes[run])
        return self.horizons[int(torch.randint(len(self.horizons), (), generator=source))]

    def batches(self, outer_step: int, count: int) -> list[Batch]:
        """The next `count` batches of every run, stacked over runs."""
        sources = [
            generator(self.seed, "batches", outer_step, run) for run in range(len(self.problems))
        ]
        return [
            stack([p.draw(source) for p, source in zip(self.problems, sources, strict=True)])
            for _ in range(count)
        ]

    def advance(self, inner: InnerState, steps: int) -> int:
        """Take over the state after a window; replace finished and diverged runs.

        Returns:
            How many runs had diverged.
        """
        self.inner = inner.detach()
        alive = self.inner.alive.tolist()
        for run, lives in enumerate(alive):
            self.ages[run] += steps
            if not lives or self.ages[run] >= self.lengths[run]:
                self._replace(run)
        return alive.count(False)

    def _replace(self, run: int) -> None:
        self.episodes[run] += 1
        self.ages[run] = 0
        self.lengths[run] = self._length(run)
        self.problems[run] = self._problem(run)
        fresh = start(self.rule, [self.problems[run]], vectorize=True)
        self._write(run, fresh)

    def _write(self, run: int, fresh: InnerState) -> None:
        for (_, target), (_, source) in zip(
            named_tensors(self.inner), named_tensors(fresh), strict=True
        ):
            target[run] = source[0]

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-able facts that `load_state_dict` goes on from."""
        facts = {"episodes": self.episodes, "ages": self.ages, "lengths": self.lengths}
        return dict(named_tensors(self.inner)), facts

    def load_state_dict(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.episodes = list(facts["episodes"])
        self.ages = list(facts["ages"])
        self.lengths = list(facts["lengths"])
        self.problems = [self._problem(run) for run in range(len(self.episodes))]
        self.inner = start(self.rule, self.problems, vectorize=True)
        with torch.no_grad():
            for name, target in named_tensors(self.inner):
                target.copy_(tensors[name])


def named_tensors(inner: InnerState) -> list[tuple[str, Tensor]]:
    """All tensors of a state with unique names, in a fixed order."""
    named = [(f"parameters/{key}", value) for key, value in inner.parameters.items()]
    named += [(f"buffers/{key}", value) for key, value in inner.buffers.items()]
    for key, state in inner.states.items():
        named += [(f"states/{key}/{name}", state[name]) for name in sorted(state)]
    return [*named, ("alive", inner.alive), ("first_loss", inner.first_loss)]
