"""Counts the bytes that inner training keeps, and predicts the peak of each memory mode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from meta_train.inner.unroll import roll_out
from meta_train.inner.window import Window


@dataclass(frozen=True)
class Footprint:
    """Bytes of tensors in inner training, all runs of a group together.

    Attributes:
        state: parameters, buffers and the rule's state.
        step: the graph that each step adds.
        work: everything one step computes, kept or not.
        other: states of the other groups.
    """

    state: int
    step: int
    work: int
    other: int = 0

    def plain(self, steps: int) -> int:
        """Return the peak of differentiating through `steps` steps with their whole graph."""
        return self.other + self.state + steps * self.step + self.work

    def checkpointing(self, steps: int, checkpoint_steps: int) -> int:
        """Return the peak with gradient checkpointing."""
        kept = -(-steps // checkpoint_steps) * self.state
        graph = min(checkpoint_steps, steps) * self.step
        return self.other + kept + self.state + graph + self.work

    def pes(self) -> int:
        """Return the peak of a pair of runs without a graph."""
        # A step holds five states: before it, masked, joined, after it, and with diverged runs
        # unchanged.
        return 2 * (self.other + 5 * self.state + self.work)


def measure(window: Window) -> Footprint:
    """Count the bytes that a few inner steps of a window keep for the derivative."""
    inner = window.state_with_grad()
    marks = window.data.mark()
    kept, used = [], []
    # Without hooks, which hide a module's own ones from `losses_of_runs`.
    roll_out(window.loop, inner, window.data, 1)
    for steps in (2, 4):
        window.data.rewind(marks)
        saved = _SavedBytes()
        with saved:
            rollout = roll_out(window.loop, inner, window.data, steps)
            kept.append(saved.alive())
            used.append(saved.total())
            del rollout
    return Footprint(
        state=sum(tensor.nbytes for _, tensor in inner.named_tensors()),
        step=(kept[1] - kept[0]) // 2,
        work=(used[1] - used[0]) // 2,
    )


class _Saved:
    """A tensor that autograd saved; lives as long as autograd needs it."""

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
            # Held, so that no later storage gets the address of a freed one.
            storages.append(tensor.untyped_storage())
            return holder

        super().__init__(pack, lambda holder: holder.tensor)
        self._saved, self._storages = saved, storages

    def alive(self) -> int:
        """Return the bytes that are still saved."""
        return _bytes(holder.tensor.untyped_storage() for holder in self._saved)

    def total(self) -> int:
        """Return the bytes of all tensors that were ever saved."""
        return _bytes(self._storages)


def _bytes(storages: Iterable[Any]) -> int:
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
