"""Brings all singular values of matrices near 1, by Newton-Schulz iterations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from learned_opt.rules.parts.features import safe_sqrt
from learned_opt.rules.parts.matrix_products import IN_TORCH, Products
from learned_opt.rules.parts.whole_tensors import one_where_zero

POLYNOMIALS = (
    (8.3007, -24.0375, 17.4661),
    (4.0059, -2.9253, 0.5424),
    (3.4840, -2.5614, 0.5024),
    (2.5153, -1.8615, 0.4425),
)
"""Coefficients a, b, c of each iteration X <- a X + (b A + c A A) X, A = X X^T.

Each is the odd polynomial of degree 5 that is nearest to 1 in the largest error, on the range to
which the ones before it bring [0.003, 1] (Amsel et al. 2025, "The Polar Express", arXiv
2505.16932). The first three are for X / 1.01, so that rounding cannot push a value off the range.
"""

CONVERGING = (1.875, -1.25, 0.375)
"""Coefficients of any further iteration: the one that converges fastest near 1."""

TABLE_ROWS, TABLE_RATIO = 1024, 32
"""A matrix with more rows than the first, and with more rows for each column than the second, is
stepped like a vector: it is an embedding, of which a batch sees few rows."""

LARGE, LARGE_RATIO = 8192, 8
"""So is a matrix with more rows or columns than the first, and with more of them for each of the
other than the second: to orthogonalise it costs more than the rest of the training step."""

WIDE = 96
"""Steps of matrices wider than this shrink with their width; see `direction_scale`."""

WIDE_POWER = 1 / 3
"""The power of the width. Both were chosen on tasks of widths 32 to 1,024."""


def orthogonalize(matrices: Tensor, iterations: int) -> Tensor:
    """Bring all singular values near 1 by Newton-Schulz iterations; zero stays zero.

    The norm (sum of the singular values^8)^(1/8) bounds the largest one, much more closely than
    Frobenius' does, and comes from products that the first iteration needs anyway. Four iterations
    bring values above 0.003 of that norm to 0.79 to 1.21, and multiply smaller ones by up to 291.

    Args:
        matrices: `[..., rows, columns]`, of any scale.
        iterations: how many.

    Returns:
        `[..., rows, columns]`, in the dtype of `matrices`.
    """
    # The scale drops out, so it needs no derivative; the largest first, lest squares overflow.
    x = matrices / one_where_zero(matrices.detach().abs().amax((-2, -1), keepdim=True))
    x = x / safe_sqrt(one_where_zero(x.square().sum((-2, -1), keepdim=True)))
    return orthogonalize_unit(x, iterations)


def orthogonalize_unit(matrices: Tensor, iterations: int, products: Products = IN_TORCH) -> Tensor:
    """The same for matrices whose squares add up to 1, or to 0.

    `products` may write over `matrices`; see `Products.apply`.
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    if x.is_cuda and x.dtype == torch.float32:
        x = x.bfloat16()
    x, gram, factor = _first_factor(x, matrices.dtype, products)
    # In bfloat16 the powers of the Gram matrix alone would lose the small singular values.
    if x.shape[-1] >= 2 * x.shape[-2] and x.dtype == matrices.dtype:
        x = products.apply(_factor_by_gram(gram, factor, iterations, products), x)
    else:
        x = products.apply(factor, x, _polynomial(0)[0])
        for k in range(1, iterations):
            a, b, c = _polynomial(k)
            gram = products.symmetric(x, x.mT)
            factor = products.symmetric(gram, gram, gram, b, c)
            x = products.apply(factor, x, a)
    return (x if wide else x.mT).to(matrices.dtype)


def _first_factor(
    x: Tensor, wide_dtype: torch.dtype, products: Products
) -> tuple[Tensor, Tensor, Tensor]:
    """Divide x by its norm; return it, its A, and b A + c A A of the first iteration."""
    gram = products.symmetric(x, x.mT)
    square = products.symmetric(gram, gram)
    norm = _root(square.to(wide_dtype).square().sum((-2, -1), keepdim=True), 8).to(x.dtype)
    x, gram, square = (
        products.divide(value, norm**power) for value, power in ((x, 1), (gram, 2), (square, 4))
    )
    _, b, c = _polynomial(0)
    return x, gram, b * gram + c * square


def _factor_by_gram(gram: Tensor, factor: Tensor, iterations: int, products: Products) -> Tensor:
    """The product of the factors of all iterations, by products of the short side alone.

    All factors are polynomials of A. So a long matrix is multiplied twice, not twice in each
    iteration.

    Args:
        gram: A of the first iteration.
        factor: of the first iteration, without a.
        iterations: how many.
        products: see `orthogonalize_unit`.
    """
    # All are polynomials of the same matrix: symmetric, and so are their products, but for
    # rounding. In the product of all factors it must stay: mirrored, it is 50 times as large.
    product = factor = _plus_identity(_polynomial(0)[0], factor)
    for k in range(1, iterations):
        a, b, c = _polynomial(k)
        gram = products.symmetric(gram, products.symmetric(factor, factor))
        factor = products.symmetric(gram, gram, _plus_identity(a, b * gram), 1.0, c)
        product = products.general(factor, product)
    return product


def _plus_identity(scale: float, matrices: Tensor) -> Tensor:
    """`matrices + scale * I`, written over `matrices`."""
    matrices.diagonal(dim1=-2, dim2=-1).add_(scale)
    return matrices


def _polynomial(iteration: int) -> tuple[float, float, float]:
    return POLYNOMIALS[iteration] if iteration < len(POLYNOMIALS) else CONVERGING


def _root(value: Tensor, degree: int) -> Tensor:
    """A root, 1 where the value is 0."""
    return one_where_zero(value) ** (1 / degree)


def direction_scale(shape: Sequence[int]) -> float:
    """The factor from the orthogonal matrix of a tensor to its direction.

    The root of the longer side of its matrix, so that the direction has an RMS of about 1; above a
    width W of 96, `(96 / W)^(1/3)` times that. W is the larger of the first two sizes: of a matrix
    the longer side, of a kernel `[out, in, ...]` the larger number of channels.

    The largest singular value of a direction of RMS 1 grows as the root of the width; that of the
    weights of a usual initialisation does not grow.
    """
    width = max(shape[0], shape[1])
    return math.sqrt(max(matrix_shape(shape))) * math.pow(min(1.0, WIDE / width), WIDE_POWER)


def orthogonal_directions(tensors: Sequence[Tensor], iterations: int) -> list[Tensor]:
    """Orthogonalise tensors as matrices and scale them; equal shapes go together.

    Args:
        tensors: `[out, ...]` each, read as `[out, the rest]`.
        iterations: see `orthogonalize`.

    Returns:
        Tensors of the same shapes; see `direction_scale`.
    """
    by_shape: dict[tuple[int, int], list[int]] = {}
    for k, tensor in enumerate(tensors):
        by_shape.setdefault(matrix_shape(tensor.shape), []).append(k)
    directions: dict[int, Tensor] = {}
    for shape, members in by_shape.items():
        stacked = torch.stack([tensors[k].reshape(shape) for k in members])
        for k, orthogonal in zip(members, orthogonalize(stacked, iterations).unbind(), strict=True):
            whole = tensors[k].shape
            directions[k] = orthogonal.reshape(whole) * direction_scale(whole)
    return [directions[k] for k in range(len(tensors))]


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """The shape `[out, the rest]` of a kernel as a matrix."""
    return shape[0], math.prod(shape) // shape[0]


def is_matrix_shape(shape: Sequence[int]) -> bool:
    """Whether it is no vector, not empty, no single row or column, and no embedding."""
    if len(shape) < 2 or 0 in shape:
        return False
    rows, columns = matrix_shape(shape)
    short, long = sorted((rows, columns))
    # To orthogonalise a row is to normalise it: without noise, its steps would not shrink.
    if short == 1:
        return False
    embedding = rows > TABLE_ROWS and rows > TABLE_RATIO * columns
    return not embedding and (long <= LARGE or long <= LARGE_RATIO * short)
