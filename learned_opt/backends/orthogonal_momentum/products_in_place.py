"""Products of matrices that are written over their operand, to save memory."""

from __future__ import annotations

from abc import ABC
from typing import final

from torch import Tensor

from learned_opt.backends.c_steps.matrix_products import ProductsInC
from learned_opt.rules.parts.matrix_products import Products, ProductsInTorch

BLOCK = 1 << 18
"""Elements of matrices that are multiplied at once, 1 MiB: no more memory is needed."""

LEAST_COLUMNS = 64
"""Columns of a block at least: of fewer, products are slow."""


class ProductsInPlace(Products, ABC):
    """Abstract: products that are written over what they multiply; without derivatives."""

    def apply(self, factor: Tensor, matrices: Tensor, scale: float = 0.0) -> Tensor:
        """See `Products.apply`; block by block of columns, written over large `matrices`."""
        if matrices.numel() <= BLOCK:
            return super().apply(factor, matrices, scale)
        columns = BLOCK * matrices.shape[-1] // matrices.numel()
        for block in matrices.split(max(columns, LEAST_COLUMNS), dim=-1):
            block.copy_(super().apply(factor, block, scale))
        return matrices

    def divide(self, matrices: Tensor, by: Tensor) -> Tensor:
        """See `Products.divide`; written over `matrices`."""
        return matrices.div_(by)


@final
class InPlaceByTorch(ProductsInPlace, ProductsInTorch):
    """Written over what they multiply, by `torch.matmul`."""


@final
class InPlaceByC(ProductsInPlace, ProductsInC):
    """Written over what they multiply, in C."""
