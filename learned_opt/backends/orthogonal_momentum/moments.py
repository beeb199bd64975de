"""Adam's moments of vectors that are stepped together."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from learned_opt.backends.orthogonal_momentum.batch import Batch, Numbers, norms

BLOCK = 1 << 16
"""Elements of vectors that are read, changed and written at once."""


class Moments:
    """Adam's moments of vectors that are stepped together, as one array.

    Read and written by blocks that fit the cache: a table of a vocabulary is such a vector.

    Args:
        batch: the vectors.
        sign: -1 to maximise, else 1.
        betas: decays of the two moments.
    """

    def __init__(self, batch: Batch, sign: float, betas: tuple[float, float]) -> None:
        self._batch, self._sign, self._betas = batch, sign, betas
        self._m, self._v, self._g = (
            tensors[0].reshape(-1)
            if len(tensors) == 1
            else torch.cat([tensor.reshape(-1) for tensor in tensors])
            for tensors in (batch.tensors("m"), batch.tensors("v"), batch.gradients)
        )

    def _new(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Blocks of m, v, and their new values."""
        b1, b2 = self._betas
        for m, v, g in zip(*(x.split(BLOCK) for x in (self._m, self._v, self._g)), strict=True):
            new_m = (b1 * m).add_(g, alpha=self._sign * (1 - b1))
            yield m, v, new_m, (b2 * v).addcmul_(g, g, value=1 - b2)

    def direction(self, step: float) -> Tensor:
        """Adam's direction, flat; nothing is written."""
        (b1, b2), out = self._betas, torch.empty_like(self._m)
        c1, c2 = -math.expm1(step * math.log(b1)), -math.expm1(step * math.log(b2))
        for place, (*_, m, v) in zip(out.split(BLOCK), self._new(), strict=True):
            root = v.div_(c2).sqrt_()
            torch.div(m.div_(c1), root, out=place)
            place.masked_fill_(root == 0, 0)
        return out

    def norms(self, sizes: list[int]) -> Numbers:
        """Norms of the new m of each tensor, `[n]`; not finite where its new v is not."""
        if len(sizes) > 1:
            new = [(m, v) for *_, m, v in self._new()]
            m, v = (torch.cat(blocks).split(sizes) for blocks in zip(*new, strict=True))
            found = norms(m)
            return np.asarray(np.where(np.isfinite(norms(v)), found, np.inf))
        squares = [(norms([m])[0], norms([v])[0]) for *_, m, v in self._new()]
        found, v_norm = np.sqrt(np.square(squares).sum(0))
        return np.array([found if math.isfinite(v_norm) else np.inf])

    def write(self) -> None:
        """Write the new moments."""
        for m, v, new_m, new_v in self._new():
            m.copy_(new_m)
            v.copy_(new_v)
        for key, flat in (("m", self._m), ("v", self._v)):
            targets = self._batch.tensors(key)
            parts = flat.split([target.numel() for target in targets])
            if targets[0].data_ptr() != flat.data_ptr():  # not a view of the state
                shaped = [part.reshape(t.shape) for part, t in zip(parts, targets, strict=True)]
                torch._foreach_copy_(targets, shaped)
