"""Groups of inner runs: the runs of a group share a task; groups may have different tasks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.runs import RunPlan, Runs, SavedRuns
from meta_train.runtime.distributed import DistributedContext
from meta_train.runtime.seeding import derive_seed, generator
from meta_train.tasks.base import SampledTask, Task, TaskFamily
from meta_train.tasks.reparametrized import Reparametrized

LIFE = 4
"""How long a group keeps its task if its runs continue (truncated or restarted): this multiple of
the longest horizon."""


class Groups:
    """All inner runs of a meta-training.

    Args:
        meta_parameters: the meta-parameters.
        family: draws the task of each group.
        plan: how runs begin and end.
        groups: number of groups.
        runs: inner runs of a group in all processes together, without copies.
        param_rescale_range: see `Reparametrized`.
        loss_rescale_range: see `Reparametrized`.
        seed: random seed.
        distributed: this process holds its share of every group's runs.
        device: where tensors live.

    Attributes:
        generations: how often each group has drawn a task.
        members: each group's task, as the family drew it.
        runs: each group's runs.
    """

    def __init__(
        self,
        meta_parameters: MetaParameters,
        family: TaskFamily,
        plan: RunPlan,
        *,
        groups: int,
        runs: int,
        param_rescale_range: float,
        loss_rescale_range: float,
        seed: int,
        distributed: DistributedContext,
        device: torch.device,
    ) -> None:
        self.meta_parameters = meta_parameters
        self.family = family
        self.plan = plan
        self.total = runs
        self.rescale_ranges = param_rescale_range, loss_rescale_range
        self.seed = seed
        self.indices = distributed.share(runs)
        self.device = device
        self.generations = [0] * groups
        self.members = [self._sample_task(group, 0) for group in range(groups)]
        self.runs = [self._make_runs(group, 0.0) for group in range(groups)]

    def prepare(self, outer_step: int, progress: float) -> None:
        """Draw new tasks for groups that have kept theirs long enough, and tell all of the step.

        Args:
            outer_step: counted from 0.
            progress: fraction of meta-training that is done; lengths of runs depend on it.
        """
        if not isinstance(self.family, Task):
            for group, generation in enumerate(self.generations):
                due = self._generation_at(outer_step, group)
                if due != generation:
                    self._renew(group, due, progress, outer_step)
        for member in self.members:
            member.task.begin_outer_step(outer_step)
        for runs in self.runs:
            runs.progress = progress

    def mean_horizon(self) -> float:
        """Return the mean length of the current runs, in inner steps."""
        lengths = [length for runs in self.runs for length in runs.clocks.lengths]
        return sum(lengths) / len(lengths)

    def shapes(self) -> dict[str, list[int]]:
        """Return names and shapes of the parameters of the first task that the family draws."""
        member = self._sample_task(0, 0)
        problem = member.task.sample(generator(self.seed, "problem", 0, 0), torch.device("cpu"))
        tensors = {**problem.fixed, **problem.parameters}
        return {name: list(value.shape) for name, value in tensors.items()}

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON-able facts of this process's runs."""
        tensors, facts = {}, {}
        for group, runs in enumerate(self.runs):
            for index, (own, about) in runs.state_dict().items():
                facts[f"{group}/{index}"] = about
                tensors.update({f"{group}/{index}/{key}": value for key, value in own.items()})
        return tensors, {"generations": list(self.generations), "runs": facts}

    def load_state_dict(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Load the `state_dict` of all processes together.

        Raises:
            ValueError: the checkpoint has another number of groups, or fewer runs.
        """
        if len(facts["generations"]) != len(self.runs):
            raise ValueError(
                f"the checkpoint has {len(facts['generations'])} groups of runs, the settings ask "
                f"for {len(self.runs)}"
            )
        own: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            group_key, _, rest = name.partition("/")
            index, _, key = rest.partition("/")
            own.setdefault(f"{group_key}/{index}", {})[key] = value
        for group, generation in enumerate(facts["generations"]):
            self._renew(group, generation, 0.0)
            saved: SavedRuns = {
                int(place.split("/")[1]): (own.get(place, {}), about)
                for place, about in facts["runs"].items()
                if place.startswith(f"{group}/")
            }
            self.runs[group].load_state_dict(saved)

    def _renew(
        self, group: int, generation: int, progress: float, outer_step: int | None = None
    ) -> None:
        self.generations[group] = generation
        self.members[group] = self._sample_task(group, generation)
        if outer_step is not None:  # problems may depend on it
            self.members[group].task.begin_outer_step(outer_step)
        self.runs[group] = self._make_runs(group, progress, outer_step)

    def _sample_task(self, group: int, generation: int) -> SampledTask:
        return self.family.sample_task(generator(self.seed, "member", group, generation))

    def _make_runs(self, group: int, progress: float, outer_step: int | None = None) -> Runs:
        """Make the runs of a group's present task; their lengths depend on the progress."""
        generation = self.generations[group]
        first = group == generation == 0
        task = self.members[group].task
        if any(self.rescale_ranges):
            task = Reparametrized(task, *self.rescale_ranges)
        return Runs(
            self.meta_parameters,
            task,
            self.plan,
            indices=self.indices,
            total=self.total,
            seed=self.seed if first else derive_seed(self.seed, "group", group, generation),
            device=self.device,
            progress=progress,
            outer_step=outer_step,
        )

    def _generation_at(self, outer_step: int, group: int) -> int:
        if self.plan.truncation_length is not None:
            life = -(-LIFE * self.plan.horizons.longest() // self.plan.truncation_length)
        else:  # whole runs need their task longer only to continue from earlier ends
            life = LIFE if self.plan.restart else 1
        # Groups change their tasks one after another.
        return (outer_step + group * life // len(self.runs)) // life
