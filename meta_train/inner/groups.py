"""Groups of inner runs: the runs of a group share a task, groups may differ in theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.run_state import load_runs, save_runs
from meta_train.inner.runs import RunPlan, Runs
from meta_train.runtime.distributed import DistributedContext
from meta_train.runtime.seeding import derive_seed, generator
from meta_train.tasks.base import SampledTask, Task, TaskFamily
from meta_train.tasks.reparametrized import Reparametrized

LIFE = 4
"""Where runs go on, from window to window or from kept states, a group keeps its task for so many
of the longest horizons."""


class Groups:
    """All inner runs of a meta-training.

    Args:
        meta_parameters: the meta-parameters.
        family: each group's task is drawn from it.
        plan: how runs begin and end.
        groups: how many.
        runs: inner runs of a group, copies not counted, all processes together.
        param_rescale_range: see `Reparametrized`.
        loss_rescale_range: see there.
        seed: of every draw.
        distributed: this process holds its share of every group's runs.
        device: where tensors live.

    Attributes:
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
        self.spreads = param_rescale_range, loss_rescale_range
        self.seed = seed
        self.indices = distributed.share(runs)
        self.device = device
        self.generations = [0] * groups
        self.members: list[SampledTask] = [None] * groups  # type: ignore[list-item]
        self.runs: list[Runs] = [None] * groups  # type: ignore[list-item]
        for group in range(groups):
            self._make(group, 0, 0.0)

    def _make(self, group: int, generation: int, progress: float) -> None:
        """Draw a group's task and begin its runs; their lengths depend on the progress."""
        member = self.family.sample_task(generator(self.seed, "member", group, generation))
        param_rescale_range, loss_rescale_range = self.spreads
        task: Task = member.task
        if param_rescale_range or loss_rescale_range:
            task = Reparametrized(task, param_rescale_range, loss_rescale_range)
        first = group == generation == 0
        self.generations[group] = generation
        self.members[group] = member
        self.runs[group] = Runs(
            self.meta_parameters,
            task,
            self.plan,
            indices=self.indices,
            total=self.total,
            seed=self.seed if first else derive_seed(self.seed, "group", group, generation),
            device=self.device,
            progress=progress,
        )

    def prepare(self, outer_step: int, progress: float) -> None:
        """Get ready for an outer step: groups whose time is over draw a new task.

        Args:
            outer_step: from 0.
            progress: the share of meta-training that is over.
        """
        if not isinstance(self.family, Task):
            for group, generation in enumerate(self.generations):
                due = self._generation_at(outer_step, group)
                if due != generation:
                    self._make(group, due, progress)
        for runs in self.runs:
            runs.progress = progress

    def _generation_at(self, outer_step: int, group: int) -> int:
        if self.plan.truncation_length is not None:
            life = -(-LIFE * self.plan.horizons.longest() // self.plan.truncation_length)
        else:  # in whole runs, unless earlier ones are gone on from, which needs them to be kept
            life = LIFE if self.plan.restart else 1
        # Groups change their tasks one after another.
        return (outer_step + group * life // len(self.runs)) // life

    def mean_horizon(self) -> float:
        """The mean length of the runs under way, in inner steps."""
        lengths = [length for runs in self.runs for length in runs.lengths]
        return sum(lengths) / len(lengths)

    def shapes(self) -> dict[str, list[int]]:
        """Names and shapes of the parameters of the first task that the family draws."""
        member = self.family.sample_task(generator(self.seed, "member", 0, 0))
        problem = member.task.sample(generator(self.seed, "problem", 0, 0), torch.device("cpu"))
        tensors = {**problem.fixed, **problem.parameters}
        return {name: list(value.shape) for name, value in tensors.items()}

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-able facts of this process's runs."""
        tensors, facts = {}, {}
        for group, runs in enumerate(self.runs):
            for index, (own, about) in save_runs(runs).items():
                facts[f"{group}/{index}"] = about
                tensors.update({f"{group}/{index}/{key}": value for key, value in own.items()})
        return tensors, {"generations": list(self.generations), "runs": facts}

    def load_state_dict(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave in all processes together.

        Raises:
            ValueError: of fewer groups or runs than these.
        """
        if len(facts["generations"]) != len(self.runs):
            raise ValueError(f"the checkpoint is of {len(facts['generations'])} groups")
        own: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            place, index, key = name.split("/", 2)
            own.setdefault(f"{place}/{index}", {})[key] = value
        for group, generation in enumerate(facts["generations"]):
            self._make(group, generation, 0.0)  # what that draws is written over
            saved = {
                int(place.split("/")[1]): (own.get(place, {}), about)
                for place, about in facts["runs"].items()
                if place.startswith(f"{group}/")
            }
            load_runs(self.runs[group], saved)
