"""Adam's step for the vectors of orthogonalised momentum."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from learned_opt.backends.orthogonal_momentum.batch import (
    TOGETHER,
    Batch,
    Numbers,
    in_blocks,
    norms,
)

MakeVectorSteps: TypeAlias = Callable[[Batch, float, tuple[float, float]], "VectorSteps"]
"""Takes vectors, -1 to maximise or else 1, and the decays of the two moments."""


def vector_steps(batch: Batch, sign: float, betas: tuple[float, float]) -> VectorSteps:
    """The steps of vectors that have taken equally many, of which a large one comes alone.

    Args:
        batch: the vectors.
        sign: -1 to maximise, else 1.
        betas: decays of the two moments.
    """
    is_small = batch.counts.sum() <= TOGETHER
    return (SmallVectors if is_small else LargeVector)(batch, sign, betas)


class VectorSteps(ABC):
    """Abstract: Adam's moments and directions; for the arguments see `vector_steps`."""

    def __init__(self, batch: Batch, sign: float, betas: tuple[float, float]) -> None:
        self._sign, self._betas = sign, betas
        self._corrections = [-math.expm1(batch.step[0] * math.log(beta)) for beta in betas]

    @abstractmethod
    def norms(self) -> tuple[Numbers, Numbers]:
        """Norms of direction and new m of each vector, `[n]`; not finite where its new v is not."""

    @abstractmethod
    def take(self, factors: Numbers) -> None:
        """Write the new moments, and add a multiple of its direction to each parameter, `[n]`."""

    def _moments(self, m: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The new m and v of a block."""
        b1, b2 = self._betas
        return (b1 * m).add_(g, alpha=self._sign * (1 - b1)), (b2 * v).addcmul_(g, g, value=1 - b2)

    def _direction(self, m: Tensor, v: Tensor) -> Tensor:
        """Adam's direction of a block, from its new moments."""
        c1, c2 = self._corrections
        root = v.div(c2).sqrt_()
        # 1, or 0 where there was no gradient yet. A mask would take three times as long.
        known = root.sign()
        return m.div(c1).div_(root.add_(1 - known)).mul_(known)


@final
class SmallVectors(VectorSteps):
    """The steps of small vectors, as one array."""

    def __init__(self, batch: Batch, sign: float, betas: tuple[float, float]) -> None:
        super().__init__(batch, sign, betas)
        self._batch = batch
        m, v, g = (
            torch.cat([tensor.reshape(-1) for tensor in tensors])
            for tensors in (batch.tensors("m"), batch.tensors("v"), batch.gradients)
        )
        self._new = self._moments(m, v, g)
        self._directions = self._parts(self._direction(*self._new))

    def _parts(self, flat: Tensor) -> list[Tensor]:
        """The parts of an array that belong to each vector, in its shape."""
        parameters = self._batch.parameters
        parts = flat.split([parameter.numel() for parameter in parameters])
        return [part.reshape(p.shape) for part, p in zip(parts, parameters, strict=True)]

    def norms(self) -> tuple[Numbers, Numbers]:
        """See `VectorSteps.norms`."""
        m, v = (norms(self._parts(new)) for new in self._new)
        return norms(self._directions), np.where(np.isfinite(v), m, np.inf)

    def take(self, factors: Numbers) -> None:
        """See `VectorSteps.take`."""
        for key, new in zip("mv", self._new, strict=True):
            torch._foreach_copy_(self._batch.tensors(key), self._parts(new))
        torch._foreach_mul_(self._directions, factors.tolist())
        torch._foreach_add_(self._batch.parameters, self._directions)


@final
class LargeVector(VectorSteps):
    """The step of one large vector, such as the table of a vocabulary.

    Moments and direction are computed twice, first for their norms, by blocks that stay in the
    cache. That takes less time than to write them to memory and to read them, and no memory.
    """

    def __init__(self, batch: Batch, sign: float, betas: tuple[float, float]) -> None:
        super().__init__(batch, sign, betas)
        (self._parameter,), (self._g,) = batch.parameters, batch.gradients
        (self._m,), (self._v,) = batch.tensors("m"), batch.tensors("v")

    def norms(self) -> tuple[Numbers, Numbers]:
        """See `VectorSteps.norms`."""
        found = []
        for block in in_blocks(self._m, self._v, self._g):
            m, v = self._moments(*block)
            found.append(norms([self._direction(m, v), m, v]))
        direction, m_norm, v_norm = np.sqrt(np.square(found).sum(0))
        m_norm = m_norm if math.isfinite(v_norm) else math.inf
        return np.array([direction]), np.array([m_norm])

    def take(self, factors: Numbers) -> None:
        """See `VectorSteps.take`."""
        (factor,) = factors.tolist()
        for p, old_m, old_v, g in in_blocks(self._parameter, self._m, self._v, self._g):
            m, v = self._moments(old_m, old_v, g)
            p.add_(self._direction(m, v).mul_(factor))
            old_m.copy_(m)
            old_v.copy_(v)
