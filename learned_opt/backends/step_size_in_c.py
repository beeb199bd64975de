"""The two passes of step-size-lstm in C."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.backends.plain_memory import refuses_cast
from learned_opt.backends.step_in_c import sizes
from learned_opt.backends.step_size_lstm import StepSizeLSTMInTwoPasses
from learned_opt.c_library import addresses, call_c, missing_library, thread_count
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.tensor_directions import SUMS
from learned_opt.updates import PendingUpdate


class StepSizeLSTMInC(StepSizeLSTMInTwoPasses):
    """56 bytes of memory traffic a parameter, twice fused AdamW's."""

    code = "C"

    def __init__(self) -> None:
        self._work: tuple[NDArray[np.int64], NDArray[np.uintp], int]
        """Sizes and addresses of the tensors in a step, and the number of threads."""

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """See `StepInC.refuses_rule`."""
        return refuses_cast(rule) or missing_library()

    def sums(self, updates: Sequence[PendingUpdate], sign: float) -> NDArray[np.float64]:
        """In float over blocks of 4,096 elements, and in double over the blocks."""
        counts = sizes([update.parameter for update in updates])
        rows = [[update.gradient for update in updates], [update.parameter for update in updates]]
        rows += [[update.state[key] for update in updates] for key in ("m9", "m99", "v")]
        tensors = np.concatenate([addresses(row) for row in rows])
        threads = thread_count(int(counts.sum()))
        self._work = counts, tensors, threads
        found = np.empty((len(updates), SUMS + 1))
        call_c("step_size_sums", len(updates), counts, tensors, sign, found, threads)
        return found

    def move(
        self,
        updates: Sequence[PendingUpdate],
        sign: float,
        weights: NDArray[np.float32],
        shrink: NDArray[np.float32],
    ) -> None:
        """In one pass over the tensors of the last `sums`."""
        counts, tensors, threads = self._work
        call_c("step_size_step", len(updates), counts, tensors, sign, weights, shrink, threads)

    def write_rows(self, tensors: Sequence[Tensor], rows: Tensor) -> None:
        """For 48 tensors a sixth of the time of `torch._foreach_copy_`."""
        flat = rows.reshape(len(tensors), -1).contiguous().numpy()
        call_c("scatter", *flat.shape, addresses(tensors), flat)
