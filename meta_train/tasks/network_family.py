"""Families whose members train a random network on real data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import nn

from learned_opt.registry import look_up
from meta_train.tasks.base import SampledTask, Task, TaskFamily, family_name
from meta_train.tasks.data import DATA, SPLITS, LabelledData, load_data
from meta_train.tasks.draws import (
    check_bounds,
    check_names,
    check_not_negative,
    check_probability,
    draw_chance,
    draw_choice,
    draw_int,
)
from meta_train.tasks.module_task import ModuleTask

SEEN_SHARE = 0.8
"""Of the rows of a split, the most that a problem trains on; the others are its unseen data."""


@dataclass(frozen=True, kw_only=True)
class NetworkFamily(TaskFamily):
    """Random networks on real data; a member has one data set, one network, one batch size.

    Attributes:
        split: "train", "validation" or "test" of the data.
        batch_size: least and most rows of a batch.
        scale_spread: a problem's initial weights are multiplied by exp(U(-this, this)).
        few_probability: how often a member has few examples only.
        few_examples: least and most of them; each problem has its own.
        full_rows: the most rows for evaluation on all data.

    Raises:
        ValueError: an unknown name, or numbers out of range.
    """

    split: str = "train"
    batch_size: Sequence[int] = (16, 64)
    scale_spread: float = 0.5
    few_probability: float = 0.4
    few_examples: Sequence[int] = (100, 1000)
    full_rows: int = 1000

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        look_up("split", self.split, dict.fromkeys(SPLITS))
        check_bounds("batch_size", self.batch_size)
        check_not_negative("scale_spread", self.scale_spread)
        check_probability("few_probability", self.few_probability)
        check_bounds("few_examples", self.few_examples)
        if self.full_rows < 1:
            raise ValueError(f"full_rows must be at least 1, got {self.full_rows}")

    @abstractmethod
    def draw_data(self, generator: torch.Generator) -> LabelledData:
        """Draw a data set; the second time, the very same tensors."""

    @abstractmethod
    def draw_network(
        self, data: LabelledData, generator: torch.Generator
    ) -> Callable[[], nn.Module]:
        """Draw the shape of a network for `data`; returns what builds it."""

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """Draw a data set, a network, a batch size, and how many rows are trained on."""
        data = self.draw_data(generator)
        make_module = self.draw_network(data, generator)
        batch_size = draw_int(generator, self.batch_size)
        few = draw_int(generator, self.few_examples)
        most = max(1, round(SEEN_SHARE * len(data.rows)))
        task = ModuleTask(
            make_module,
            data.loss,
            data.rows,
            batch_size,
            examples=min(few, most) if draw_chance(generator, self.few_probability) else most,
            full_rows=self.full_rows,
        )
        return SampledTask(family_name(type(self)), task)

    def validation(self) -> Self:
        """The same networks on the validation split."""
        return replace(self, split="validation")

    def fixed(self, **settings: Any) -> Task:
        """One task on held-out data: `settings` that leave a single choice."""
        single = {"batch_size": (32, 32), "scale_spread": 0.0, "few_probability": 0.0, **settings}
        family = replace(self, split="test", **single)
        return family.sample_task(torch.Generator().manual_seed(0)).task


@dataclass(frozen=True, kw_only=True)
class DataFamily(NetworkFamily):
    """Random networks on data sets that go by name.

    Attributes:
        data: names of data sets, one drawn for each member.
        folder: where files are, for data sets that are read from files; by default what the
            environment variable LEARNED_OPT_DATA says.
        download: let torchvision fetch files that are missing.
    """

    data: Sequence[str] = ("digits", "photos")
    folder: str | None = None
    download: bool = False

    known_data: ClassVar[Sequence[str]] = tuple(DATA)
    """Data sets that fit the networks."""

    flat: ClassVar[bool] = False
    """Whether the networks want one axis for all of an input."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, and read the data."""
        super().__post_init__()
        check_names("data", self.data, self.known_data)
        for name in self.data:
            self.load(name)

    def load(self, name: str) -> LabelledData:
        """A data set as the networks take it."""
        return load_data(
            name, self.split, folder=self.folder, download=self.download, flat=self.flat
        )

    def draw_data(self, generator: torch.Generator) -> LabelledData:
        """See `NetworkFamily`."""
        return self.load(draw_choice(generator, self.data))
