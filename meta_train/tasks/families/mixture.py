"""A mixture of task families: each draw first picks a family, then draws a task from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from learned_opt.checks.arguments import shown
from learned_opt.checks.setting_types import fitted
from meta_train.tasks.base import SampledTask, Task, TaskFamily
from meta_train.tasks.family_argument import check_family


class Mixture(TaskFamily):
    """A weighted mixture of task families.

    Examples:
        Three MLPs for every convolutional network::

            Mixture({"mlp": RandomMLP(), "conv": Conv()}, weights=[3, 1])

    Args:
        families: the families by name. Losses are logged under these names.
        weights: relative probability of each family; None for equal ones.

    Raises:
        ValueError: no families, something that is no family, or weights that are not one positive
            number for each family.
    """

    def __init__(
        self, families: Mapping[str, TaskFamily], weights: Sequence[float] | None = None
    ) -> None:
        if not isinstance(families, Mapping):
            raise ValueError(f"families must be families by name, got {shown(families)}")
        for name, family in families.items():
            check_family(family, f"family {name!r}")
        if not families:
            raise ValueError("a mixture needs at least one family")
        given = [1.0] * len(families) if weights is None else weights
        chosen = list(fitted("weights", given, Sequence[float]))
        if len(chosen) != len(families) or not all(0 < w < float("inf") for w in chosen):
            raise ValueError(
                f"weights must be one positive number for each of {list(families)}, got {weights}"
            )
        self.families = dict(families)
        self.weights = chosen

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """Draw a family, then a task from it. The task gets the family's name in this mixture."""
        weights = torch.tensor(self.weights, dtype=torch.float64)
        index = int(torch.multinomial(weights, 1, generator=generator))
        name = list(self.families)[index]
        return SampledTask(name, self.families[name].sample_task(generator).task)

    def validation(self) -> TaskFamily:
        """The mixture of the validation families, with the same weights."""
        families = {name: family.validation() for name, family in self.families.items()}
        return Mixture(families, self.weights)

    def held_out(self) -> dict[str, Task]:
        """The held-out tasks of all families, titled "family: title"."""
        return {
            f"{name}: {title}": task
            for name, family in self.families.items()
            for title, task in family.held_out().items()
        }
