"""Products of matrices in C."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from learned_opt.c_library import addresses, call_c
from learned_opt.rules.parts.matrix_products import IN_TORCH, Products

FLOP_PER_THREAD = 1 << 23
"""Fewest operations that are worth a thread: about 50 us of work."""


class ProductsInC(Products):
    """Products of float32 matrices in the CPU's memory; of a symmetric product, C computes half.

    torch's library always computes whole products, and on some processors uses vectors of half
    the possible size.

    Args:
        least_side: results with fewer rows or columns are left to torch: a call takes it 6 us less.
    """

    def __init__(self, least_side: int = 96) -> None:
        self._least_side = least_side

    def general(
        self,
        left: Tensor,
        right: Tensor,
        base: Tensor | None = None,
        base_scale: float = 1.0,
        scale: float = 1.0,
    ) -> Tensor:
        """See `Products.general`."""
        if self._is_small(left, right):
            return IN_TORCH.general(left, right, base, base_scale, scale)
        return _multiply(left, right, base, base_scale, scale, symmetric=False)

    def symmetric(
        self,
        left: Tensor,
        right: Tensor,
        base: Tensor | None = None,
        base_scale: float = 1.0,
        scale: float = 1.0,
    ) -> Tensor:
        """See `Products.symmetric`."""
        if self._is_small(left, right):
            return IN_TORCH.symmetric(left, right, base, base_scale, scale)
        return _multiply(left, right, base, base_scale, scale, symmetric=True)

    def _is_small(self, left: Tensor, right: Tensor) -> bool:
        return min(left.shape[-2], right.shape[-1]) < self._least_side


def _multiply(
    left: Tensor,
    right: Tensor,
    base: Tensor | None,
    base_scale: float,
    scale: float,
    *,
    symmetric: bool,
) -> Tensor:
    """Multiply `[n, rows, depth]` by `[n, depth, columns]`, with any strides."""
    batch, rows, depth = left.shape
    columns = right.shape[-1]
    if right.shape != (batch, depth, columns) or (symmetric and rows != columns):
        raise ValueError(f"no product of {list(left.shape)} and {list(right.shape)}")
    # The base lies like the result; a wide matrix that was turned over must be copied.
    result = torch.empty((batch, rows, columns), dtype=torch.float32, device="cpu")
    if base is None:
        base, base_scale = result, 0.0
    elif base.shape != result.shape:
        raise ValueError(f"no sum of {list(base.shape)} and {list(result.shape)}")
    for tensor in (left, right, base):
        if tensor.dtype != torch.float32 or not tensor.is_cpu:
            raise ValueError(f"C multiplies float32 on the CPU, got {tensor.dtype}")
    base = base.contiguous()
    flop = batch * rows * depth * columns * (1 if symmetric else 2)
    call_c(
        "matrix_product",
        batch,
        rows,
        depth,
        columns,
        np.array([*left.stride(), *right.stride()], dtype=np.int64),
        addresses([left, right, result, base]),
        base_scale,
        scale,
        int(symmetric),
        max(1, min(torch.get_num_threads(), flop // FLOP_PER_THREAD)),
    )
    return result
