"""Products of matrices that are written over their operand, to save memory."""

from __future__ import annotations

from typing import final

from torch import Tensor

from learned_opt.rules.parts.matrix_products import Products

BLOCK = 1 << 18
"""Elements of matrices that are multiplied at once, 1 MiB: no more memory is needed."""

LEAST_COLUMNS = 64
"""Columns of a block at least: of fewer, products are slow."""


@final
class ProductsInPlace(Products):
    """Other products, written over what they multiply.

    Args:
        products: the others; without derivatives.
    """

    def __init__(self, products: Products) -> None:
        self._products = products

    def general(
        self,
        left: Tensor,
        right: Tensor,
        base: Tensor | None = None,
        base_scale: float = 1.0,
        scale: float = 1.0,
    ) -> Tensor:
        """See `Products.general`; a new tensor."""
        return self._products.general(left, right, base, base_scale, scale)

    def symmetric(
        self,
        left: Tensor,
        right: Tensor,
        base: Tensor | None = None,
        base_scale: float = 1.0,
        scale: float = 1.0,
    ) -> Tensor:
        """See `Products.symmetric`; a new tensor."""
        return self._products.symmetric(left, right, base, base_scale, scale)

    def apply(self, factor: Tensor, matrices: Tensor, scale: float = 0.0) -> Tensor:
        """See `Products.apply`; block by block of columns, written over large `matrices`."""
        if matrices.numel() <= BLOCK:
            return self._products.apply(factor, matrices, scale)
        columns = BLOCK * matrices.shape[-1] // matrices.numel()
        for block in matrices.split(max(columns, LEAST_COLUMNS), dim=-1):
            block.copy_(self._products.apply(factor, block, scale))
        return matrices

    def divide(self, matrices: Tensor, by: Tensor) -> Tensor:
        """See `Products.divide`; written over `matrices`."""
        return matrices.div_(by)
