"""How much memory a meta-gradient takes, and which way of taking it fits into a budget.

Differentiating through `T` inner steps keeps the graph of all of them. Four modes, from exact to
frugal:

- plain: the whole graph, `T` steps of it.
- segments: the states at every `k` steps and the graph of `k` steps, which are computed twice
  (Griewank 1992; Chen et al. 2016, arXiv 1604.06174). The same gradient.
- truncated: windows (Werbos 1990), within which segments are recomputed. A biased gradient.
- pes: persistent evolution strategies (Vicol et al. 2021, arXiv 2112.13835). No graph at all.

What one step keeps is counted, not guessed: bytes of tensors, which are the same every time, so
that a resumed meta-training chooses what it chose before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor

from meta_train.estimators.backprop import best_segment
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import InnerState
from meta_train.inner.unroll import Data, data_of, roll_out

if TYPE_CHECKING:
    from meta_train.outer.settings import TrainSettings
    from meta_train.outer.trainer import MetaTrainer

MODES = ("plain", "segments", "truncated", "pes")
EXACT = ("full", "first-order")
"""Estimators that a mode other than plain can be chosen for."""
WHOLE_RUN = frozenset({"last", "log-last", "log-tail"})
"""Objectives that say nothing about a window."""

MIB = 2**20
_UNITS = {"KiB": 2**10, "MiB": MIB, "GiB": 2**30}


@dataclass(frozen=True)
class Footprint:
    """Bytes of tensors in inner training, all runs of a group together.

    Attributes:
        state: where training stands: parameters, buffers, the rule's state.
        step: the graph that every step adds.
        work: what one step computes, whether it is kept or not.
        other: states of the groups that wait meanwhile.
    """

    state: int
    step: int
    work: int
    other: int = 0

    def plain(self, steps: int) -> int:
        """Peak of differentiating through so many steps."""
        return self.other + self.state + steps * self.step + self.work

    def segments(self, steps: int, segment: int) -> int:
        """Peak with segments recomputed."""
        kept = -(-steps // segment) * self.state
        return self.other + kept + self.state + min(segment, steps) * self.step + self.work

    def pes(self) -> int:
        """Peak of a pair of runs without a graph."""
        # In a step there are states before it, masked, joined, after it, and with idle ones still.
        return 2 * (self.other + 5 * self.state + self.work)


@dataclass(frozen=True)
class Choice:
    """How the meta-gradient is taken.

    Attributes:
        mode: one of `MODES`.
        predicted_bytes: the peak of live tensors.
        segment: steps that are recomputed together; None keeps the whole graph.
        truncation_length: inner steps of an outer step; None for whole runs.
    """

    mode: str
    predicted_bytes: int
    segment: int | None = None
    truncation_length: int | None = None

    def __str__(self) -> str:
        """One line for the log."""
        how = {
            "plain": "the graph of all steps is kept",
            "segments": f"segments of {self.segment} steps are computed twice, same gradient",
            "truncated": f"gradients reach back {self.truncation_length} steps, which biases them",
            "pes": f"no graph, windows of {self.truncation_length} steps",
        }[self.mode]
        return f"memory: {self.mode} ({how}), predicted peak {self.predicted_bytes / MIB:.0f} MiB"


def read_budget(memory: str) -> int | None:
    """Bytes of a budget such as "500MiB"; None for the name of a mode.

    Raises:
        ValueError: neither of both.
    """
    if memory in MODES:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(KiB|MiB|GiB)", memory)
    if found is None or float(found[1]) == 0:
        raise ValueError(
            f'memory must be one of {", ".join(MODES)} or a budget such as "500MiB", got {memory!r}'
        )
    return int(float(found[1]) * _UNITS[found[2]])


def choose_mode(
    memory: str,
    footprint: Footprint,
    steps: int,
    truncation_length: int,
    *,
    whole_run: bool = False,
) -> Choice:
    """The mode that was asked for, or the first of `MODES` that fits into the budget.

    Args:
        memory: a mode or a budget.
        footprint: of one group's runs.
        steps: the longest horizon.
        truncation_length: inner steps of an outer step for `pes`, and for `truncated` where it is
            asked for by name; within a budget, the shortest one that `truncated` may take (it takes
            the longest that fits).
        whole_run: the objective is of whole runs: windows cannot stand in for them.

    Raises:
        ValueError: `memory` is neither, or nothing fits.
    """
    budget = read_budget(memory)
    segment = best_segment(steps, footprint.state, footprint.step)
    offers = [
        Choice("plain", footprint.plain(steps)),
        Choice("segments", footprint.segments(steps, segment), segment),
    ]
    if not whole_run or budget is None:
        longest = _longest_window(footprint, steps, truncation_length, budget)
        inside = None if budget is None else best_segment(longest, footprint.state, footprint.step)
        peak = footprint.segments(longest, inside) if inside else footprint.plain(longest)
        offers.append(Choice("truncated", peak, inside, longest))
        offers.append(Choice("pes", footprint.pes(), None, truncation_length))
    for choice in offers:
        if choice.mode == memory or (budget is not None and choice.predicted_bytes <= budget):
            return choice
    least = min(offers, key=lambda choice: choice.predicted_bytes)
    why = "; the objective is of whole runs, which windows cannot stand in for" if whole_run else ""
    raise ValueError(
        f"memory={memory!r} is too little: {least.mode} takes the least, "
        f"{least.predicted_bytes / MIB:.1f} MiB{why}"
    )


def _longest_window(footprint: Footprint, steps: int, least: int, budget: int | None) -> int:
    """The longest window that fits, but not below `least`."""
    if budget is None:
        return least
    low, high = least, max(least, steps)
    while low < high:
        middle = (low + high + 1) // 2
        segment = best_segment(middle, footprint.state, footprint.step)
        fits = footprint.segments(middle, segment) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def measure(loop: InnerLoop, inner: InnerState, data: Data) -> Footprint:
    """Count what inner steps keep for a derivative, on a few of them.

    Args:
        loop: see `InnerLoop`.
        inner: where runs begin.
        data: what is read.
    """
    start = data.mark()
    kept, used = [], []
    for steps in (2, 4):
        data.rewind(start)
        saved = _SavedBytes()
        with saved:
            rollout = roll_out(loop, inner, data, steps)
            kept.append(saved.alive())
            used.append(saved.total())
            del rollout
    return Footprint(
        state=sum(tensor.nbytes for _, tensor in inner.named_tensors()),
        step=(kept[1] - kept[0]) // 2,
        work=(used[1] - used[0]) // 2,
    )


class _Saved:
    """What autograd saved once, for as long as it does."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # with its history it could be part of a cycle


class _SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes of tensors that autograd saves, each storage once."""

    def __init__(self) -> None:
        saved: WeakSet[_Saved] = WeakSet()
        storages: list[Any] = []

        def pack(tensor: Tensor) -> _Saved:
            holder = _Saved(tensor)
            saved.add(holder)
            # Held, so that no later storage has the address of one that was freed.
            storages.append(tensor.untyped_storage())
            return holder

        super().__init__(pack, lambda holder: holder.tensor)
        self._saved, self._storages = saved, storages

    def alive(self) -> int:
        """Of those that are still saved."""
        return _bytes(holder.tensor.untyped_storage() for holder in self._saved)

    def total(self) -> int:
        """Of all that were saved, even if only for a while."""
        return _bytes(self._storages)


def _bytes(storages: Iterable[Any]) -> int:
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def fit(
    settings: TrainSettings, make: Callable[[TrainSettings], MetaTrainer]
) -> tuple[TrainSettings, Choice]:
    """Settings in which the choice has been made, so that a checkpoint holds what was chosen.

    It is made from the first tasks that are drawn; a family whose later tasks are larger can go
    beyond the budget.

    Args:
        settings: with a mode or a budget as `memory`.
        make: builds a trainer to measure; it takes no step.
    """
    trainer = make(replace(settings, memory="plain"))
    trainer.groups.prepare(0, 0.0)
    found = []
    for runs in trainer.groups.runs:
        runs.reset(0)
        data = data_of(runs, settings.objective_data, 0)
        found.append(measure(runs.bind(trainer.loop), runs.state_with_grad(), data))
    largest = {
        field.name: max(getattr(one, field.name) for one in found) for field in fields(Footprint)
    }
    largest["other"] = (len(found) - 1) * largest["state"]
    # Shares of the runs may differ by one: all processes must choose alike.
    everyones = trainer.distributed.gather(largest)  # in the first process; nothing in the others
    footprint = trainer.distributed.from_first(
        lambda: Footprint(**{key: max(one[key] for one in everyones) for key in largest})
    )
    choice = choose_mode(
        settings.memory,
        footprint,
        settings.planned_horizons().longest(),
        settings.truncation_length,
        whole_run=settings.objective in WHOLE_RUN,
    )
    return _with_choice(settings, choice), choice


def _with_choice(settings: TrainSettings, choice: Choice) -> TrainSettings:
    inside = {} if choice.segment is None else {"segment": choice.segment}
    settings = replace(settings, memory="plain", estimator_settings=inside)
    if choice.truncation_length is None:
        return settings
    return replace(
        settings,
        estimator=choice.mode,
        truncation_length=choice.truncation_length,
        second_order=False if settings.estimator == "first-order" else settings.second_order,
    )
