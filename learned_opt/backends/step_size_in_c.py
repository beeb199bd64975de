"""The two passes of step-size-lstm in C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from learned_opt.backends.plain_memory import refuses_cast
from learned_opt.backends.step_in_c import sizes
from learned_opt.backends.step_size_lstm import StepSizeLSTMInTwoPasses
from learned_opt.c_library import addresses, call_c, missing_library, thread_count
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.step_size_lstm import Memory
from learned_opt.rules.tensor_directions import SUMS
from learned_opt.updates import PendingUpdate


@dataclass(slots=True, eq=False)
class _Work:
    """What C gets of the tensors in a step.

    Attributes:
        counts: numbers of elements, `[n]`.
        whole: addresses of gradients, parameters, m9, m99 and v, `[5, n]`.
        small: addresses of the tensors of `Memory`, `[4, n]`.
        threads: the number of threads.
    """

    counts: NDArray[np.int64]
    whole: NDArray[np.uintp]
    small: NDArray[np.uintp]
    threads: int


class StepSizeLSTMInC(StepSizeLSTMInTwoPasses):
    """56 bytes of memory traffic a parameter, twice fused AdamW's."""

    code = "C"

    def __init__(self) -> None:
        self._work: _Work
        """Of the last `sums`."""

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """See `StepInC.refuses_rule`."""
        return refuses_cast(rule) or missing_library()

    def sums(self, updates: Sequence[PendingUpdate], sign: float) -> NDArray[np.float64]:
        """In float over blocks of 4,096 elements, and in double over the blocks."""
        parameters = [update.parameter for update in updates]
        states = [update.state for update in updates]
        keys = ("m9", "m99", "v", *Memory._fields)
        rows = [[update.gradient for update in updates], parameters]
        rows += [[state[key] for state in states] for key in keys]
        # In one go: a call for each row costs as much as its addresses.
        every = addresses(list(chain.from_iterable(rows))).reshape(len(rows), -1)
        counts = sizes(parameters)
        work = self._work = _Work(counts, every[:5], every[5:], thread_count(int(counts.sum())))
        found = np.empty((len(updates), SUMS + 1))
        call_c("step_size_sums", len(updates), counts, work.whole, sign, found, work.threads)
        return found

    def move(
        self,
        updates: Sequence[PendingUpdate],
        sign: float,
        weights: NDArray[np.float32],
        shrink: NDArray[np.float32],
    ) -> None:
        """In one pass over the tensors of the last `sums`."""
        work, n = self._work, len(updates)
        call_c("step_size_step", n, work.counts, work.whole, sign, weights, shrink, work.threads)

    def read_memory(self, updates: Sequence[PendingUpdate], hidden_size: int) -> Memory:
        """For 48 tensors a tenth of the time of four `torch.stack`."""
        lengths, n = _lengths(hidden_size), len(updates)
        rows = np.empty(n * int(lengths.sum()), dtype=np.float32)
        call_c("gather", n, len(lengths), lengths, self._work.small, rows)
        step, *others = torch.from_numpy(rows).split((n * lengths).tolist())
        return Memory(step, *(part.reshape(n, -1) for part in others))

    def write_memory(self, updates: Sequence[PendingUpdate], memory: Memory) -> None:
        """For 48 tensors a tenth of the time of four `torch._foreach_copy_`."""
        rows = np.concatenate([part.reshape(-1).numpy() for part in memory])
        lengths = _lengths(memory.h.shape[1])
        call_c("scatter", len(updates), len(lengths), lengths, self._work.small, rows)


def _lengths(hidden_size: int) -> NDArray[np.int64]:
    """Elements of `step`, `h`, `c` and `scalars`."""
    return np.array([1, hidden_size, hidden_size, 8], dtype=np.int64)
