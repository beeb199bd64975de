"""How Newton-Schulz iterations multiply matrices."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Products(ABC):
    """Abstract: how Newton-Schulz iterations multiply matrices, `[..., rows, columns]`.

    `general` and `symmetric` compute `base_scale * base + scale * left @ right`, without a base
    `scale * left @ right`.
    """

    @abstractmethod
    def general(
        self,
        left: Tensor,
        right: Tensor,
        base: Tensor | None = None,
        base_scale: float = 1.0,
        scale: float = 1.0,
    ) -> Tensor:
        """The product of two matrices, and a sum."""

    @abstractmethod
    def symmetric(
        self,
        left: Tensor,
        right: Tensor,
        base: Tensor | None = None,
        base_scale: float = 1.0,
        scale: float = 1.0,
    ) -> Tensor:
        """The same, where product and base are known to be symmetric up to rounding."""

    def apply(self, factor: Tensor, matrices: Tensor, scale: float = 0.0) -> Tensor:
        """`factor @ matrices + scale * matrices`; may be written over `matrices`."""
        return self.general(factor, matrices, matrices if scale else None, scale)

    def divide(self, matrices: Tensor, by: Tensor) -> Tensor:
        """`matrices / by`; may be written over `matrices`."""
        return matrices / by


class ProductsInTorch(Products):
    """`torch.matmul` for both; differentiable."""

    def general(
        self,
        left: Tensor,
        right: Tensor,
        base: Tensor | None = None,
        base_scale: float = 1.0,
        scale: float = 1.0,
    ) -> Tensor:
        """See `Products.general`."""
        product = left @ right
        if scale != 1:
            product = scale * product
        return product if base is None else base_scale * base + product

    def symmetric(
        self,
        left: Tensor,
        right: Tensor,
        base: Tensor | None = None,
        base_scale: float = 1.0,
        scale: float = 1.0,
    ) -> Tensor:
        """See `Products.symmetric`."""
        return self.general(left, right, base, base_scale, scale)


IN_TORCH = ProductsInTorch()
