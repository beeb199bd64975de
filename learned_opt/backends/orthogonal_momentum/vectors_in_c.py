"""Adam's step in C for the vectors of orthogonalised momentum."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from learned_opt.backends.orthogonal_momentum.batch import Batch, Numbers
from learned_opt.backends.orthogonal_momentum.moments import VectorSteps, vector_steps
from learned_opt.c_library import addresses, call_c, thread_count

PIECE = 1 << 14
"""Coordinates that one thread steps at once."""


def vector_steps_in_c(batch: Batch, sign: float, betas: tuple[float, float]) -> VectorSteps:
    """The same as `vector_steps`, in C where all tensors are contiguous."""
    tensors = [*batch.tensors("m"), *batch.tensors("v"), *batch.gradients, *batch.parameters]
    if not all(tensor.is_contiguous() for tensor in tensors):
        return vector_steps(batch, sign, betas)
    return VectorsInC(batch, sign, betas)


@final
class VectorsInC(VectorSteps):
    """The steps of contiguous vectors; moments and direction are computed twice."""

    def __init__(self, batch: Batch, sign: float, betas: tuple[float, float]) -> None:
        super().__init__(batch, sign, betas)
        # Kept here, since C has their addresses alone.
        self._tensors = [
            *batch.tensors("m"), *batch.tensors("v"), *batch.gradients, *batch.parameters,
        ]  # fmt: skip
        self._places = addresses(self._tensors)
        sizes = batch.counts.astype(np.int64)
        self._pieces = _pieces(sizes)
        b1, b2 = betas
        self._constants = np.array([b1, sign * (1 - b1), b2, 1 - b2, *self._corrections])
        self._threads = thread_count(int(sizes.sum()))

    def norms(self) -> tuple[Numbers, Numbers]:
        """See `VectorSteps.norms`."""
        sums = np.empty((len(self._pieces), 3))
        self._call("vector_sums", sums)
        # In the order of the pieces, whichever thread had them.
        first = np.flatnonzero(self._pieces[:, 1] == 0)
        direction, m, v = np.sqrt(np.add.reduceat(sums, first)).T
        return direction, np.where(np.isfinite(v), m, np.inf)

    def take(self, factors: Numbers) -> None:
        """See `VectorSteps.take`."""
        self._call("vector_step", factors)

    def _call(self, function: str, numbers: Numbers) -> None:
        call_c(
            function,
            len(self._places) // 4,
            len(self._pieces),
            self._pieces,
            self._places,
            self._constants,
            numbers,
            self._threads,
        )


def _pieces(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tensor, start and number of coordinates of each piece, `[pieces, 3]`; no size is 0."""
    counts = -(-sizes // PIECE)
    tensor = np.repeat(np.arange(len(sizes)), counts)
    start = PIECE * (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts))
    return np.stack([tensor, start, np.minimum(PIECE, sizes[tensor] - start)], 1)
