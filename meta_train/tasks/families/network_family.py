"""Base classes of families that train random networks on real data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import nn

from learned_opt.registry import look_up
from meta_train.runtime.checks import check_at_least, check_fraction, check_not_negative
from meta_train.tasks.base import SampledTask, Task, TaskFamily, family_name
from meta_train.tasks.data import DATA, SPLITS, LabelledData, load_data
from meta_train.tasks.families.sampling import (
    check_names,
    check_range,
    sample_bool,
    sample_choice,
    sample_int,
)
from meta_train.tasks.module_task import ModuleTask

TRAIN_FRACTION = 0.8
"""Fraction of a split's examples that a problem trains on; the others are its validation data."""


@dataclass(frozen=True, kw_only=True)
class NetworkFamily(TaskFamily):
    """Random networks on real data. A task has one data set, one architecture, one batch size.

    Subclasses draw the data (`sample_data`) and the architecture (`sample_network`). Ranges are
    (lowest, highest), both included.

    Attributes:
        split: "train", "validation" or "test" data.
        batch_size: range of examples per inner step.
        scale_spread: the initial weights of a problem are multiplied by exp(U(-s, s)), with s this
            value.
        few_probability: probability that a task trains on few examples.
        few_examples: range of the number of examples of such a task. Each problem draws its own
            examples.
        full_rows: maximal number of examples for evaluation on all data.

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
        """Check the settings."""
        look_up("split", self.split, dict.fromkeys(SPLITS))
        check_range("batch_size", self.batch_size)
        check_not_negative(scale_spread=self.scale_spread)
        check_fraction(few_probability=self.few_probability)
        check_range("few_examples", self.few_examples)
        check_at_least(1, full_rows=self.full_rows)

    @abstractmethod
    def sample_data(self, generator: torch.Generator) -> LabelledData:
        """Draw a data set. Drawing it again returns the same tensors, not a copy."""

    @abstractmethod
    def sample_network(
        self, data: LabelledData, generator: torch.Generator
    ) -> Callable[[], nn.Module]:
        """Draw an architecture for `data`; returns a function that builds it with new weights."""

    def sample_task(self, generator: torch.Generator) -> SampledTask:
        """Draw a data set, an architecture, a batch size, and the number of training examples."""
        data = self.sample_data(generator)
        make_module = self.sample_network(data, generator)
        batch_size = sample_int(generator, self.batch_size)
        few = sample_int(generator, self.few_examples)
        most = max(1, round(TRAIN_FRACTION * len(data.dataset)))
        task = ModuleTask(
            make_module,
            data.loss,
            data.dataset,
            batch_size,
            examples=min(few, most) if sample_bool(generator, self.few_probability) else most,
            full_rows=self.full_rows,
        )
        return SampledTask(family_name(type(self)), task)

    def validation(self) -> Self:
        """The same family on the validation split."""
        return replace(self, split="validation")

    def fixed_task(self, **settings: Any) -> Task:
        """One task on the test split, with batches of 32 and unscaled initial weights.

        Args:
            **settings: ranges that contain a single value, so that nothing is left to draw.
        """
        single = {"batch_size": (32, 32), "scale_spread": 0.0, "few_probability": 0.0, **settings}
        family = replace(self, split="test", **single)
        return family.sample_task(torch.Generator().manual_seed(0)).task


@dataclass(frozen=True, kw_only=True)
class DataFamily(NetworkFamily):
    """Random networks on named data sets.

    Attributes:
        data: names of data sets; each task draws one.
        folder: the folder of data sets that are read from files. The default is the environment
            variable LEARNED_OPT_DATA.
        download: download missing files with torchvision.
    """

    data: Sequence[str] = ("digits", "photos")
    folder: str | None = None
    download: bool = False

    supported_data: ClassVar[Sequence[str]] = tuple(DATA)
    """Names of the data sets that the networks can take."""

    flat: ClassVar[bool] = False
    """Whether inputs are flattened to `[M, features]`."""

    def __post_init__(self) -> None:
        """Check the settings and read the data."""
        super().__post_init__()
        check_names("data", self.data, self.supported_data)
        for name in self.data:
            self.load(name)

    def load(self, name: str) -> LabelledData:
        """Read a data set, in the shape that the networks take."""
        return load_data(
            name, self.split, folder=self.folder, download=self.download, flat=self.flat
        )

    def sample_data(self, generator: torch.Generator) -> LabelledData:
        """See `NetworkFamily`."""
        return self.load(sample_choice(generator, self.data))
