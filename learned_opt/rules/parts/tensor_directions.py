"""Moving averages of whole tensors, the directions made of them, their norms, and their mixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from learned_opt.rules.parts.features import bias_correction, euclidean_norm, safe_sqrt
from learned_opt.rules.parts.whole_tensors import LOCAL, WholeTensors

BETA_FAST, BETA_SLOW = 0.9, 0.99
BETA_SQUARE = BETA_SLOW
"""Decays of the momenta m9 and m99 and of the mean square v."""

EPS = 1e-24
"""Added to v under the root; its own root, 1e-12, is far below any gradient that matters."""

STACKED = 1 << 16
"""Tensors of at most this many elements are copied into one array: fewer, larger operations."""

TINY = 1e-15
"""Added to norms before a division; its square does not underflow in float32."""

PAIRS = tuple((i, j) for i in range(5) for j in range(i, 5))
"""Pairs of the parameter and the four directions of `Mix`: the upper triangle of their Gram matrix,
by rows."""

SUMS = 8 + len(PAIRS)
"""Number of sums over the elements of a tensor; a step needs no other measurement.

Gradient times gradient, m9, m99 and m9 / sqrt(v); squares of m9, m99, m9 / sqrt(v) and the
parameter, all before the step; then the products of `PAIRS` after it, of the parameter only where
v is not 0. Sums over the pieces of a tensor add up to those of the whole.
"""

SQUARES = (0, *range(4, 8), *(8 + k for k, (i, j) in enumerate(PAIRS) if i == j > 0))
"""The places in the sums of the squares of the norms of `Norms`, in its order."""


class Norms(NamedTuple):
    """Euclidean norms (or root mean squares) of n tensors, `[n]` each, or 0-dim of one."""

    gradient: Tensor
    m9_before: Tensor
    m99_before: Tensor
    adam_before: Tensor
    """m9 / sqrt(v) before the step."""
    parameter: Tensor
    adam: Tensor
    """m9 / sqrt(v) after the step."""
    slow_adam: Tensor
    """m99 / sqrt(v) after the step."""
    m9: Tensor
    scaled_gradient: Tensor
    """gradient / sqrt(v) after the step."""


class ScaledDirections(NamedTuple):
    """One number, `[n]`, for each of the directions over sqrt(v)."""

    adam: Tensor
    slow_adam: Tensor
    gradient: Tensor


class Mix(NamedTuple):
    """Weights of the parameter and the four directions in a sum, `[n]` each."""

    parameter: Tensor
    adam: Tensor
    slow_adam: Tensor
    m9: Tensor
    scaled_gradient: Tensor


class Cosines(NamedTuple):
    """Cosines of the angles between the gradient and averages before the step, `[n]` each."""

    m9: Tensor
    m99: Tensor
    adam: Tensor


class Statistics(NamedTuple):
    """Measurements of n tensors in one step, `[n]` each."""

    norm: Norms
    rms: Norms
    cosine: Cosines
    size: Tensor
    """Number of elements, at least 1."""
    is_vector: Tensor
    """1 for tensors of at most one dimension, else 0."""

    @property
    def is_first(self) -> Tensor:
        """Whether the tensor has had no gradient before this step, `[n]`."""
        return self.norm.m9_before == 0

    @property
    def is_idle(self) -> Tensor:
        """Whether the tensor has never had a gradient, this one included, `[n]`."""
        return (self.norm.gradient == 0) & self.is_first


class TensorDirections:
    """The moving averages of one tensor after a gradient, and the directions made of them.

    The directions are m9 / sqrt(v) (Adam's), m99 / sqrt(v), m9, and gradient / sqrt(v), without
    bias corrections, and the parameter itself.

    Args:
        gradient: `[*param]`, like all the others.
        parameter: before the step.
        m9: running mean of gradients, before the step.
        m99: a slower one.
        v: running mean of squared gradients.

    Attributes:
        m9: after the step, `[*param]`.
        m99: after the step.
        v: after the step.
        norms: `[9]`, in the order of `Norms`.
        products: `[3]`, inner products of the gradient with m9, m99 and m9 / sqrt(v) before the
            step.
    """

    def __init__(
        self, gradient: Tensor, parameter: Tensor, m9: Tensor, m99: Tensor, v: Tensor
    ) -> None:
        self._gradient, self._parameter = gradient, parameter
        self.m9 = torch.lerp(m9, gradient, 1 - BETA_FAST)
        self.m99 = torch.lerp(m99, gradient, 1 - BETA_SLOW)
        self.v = torch.addcmul(BETA_SQUARE * v, gradient, gradient, value=1 - BETA_SQUARE)
        before = gradient, m9, m99, m9 * (v + EPS).rsqrt(), parameter
        inverse = (self.v + EPS).rsqrt()
        self._small: Tensor | None = None
        # A compiler fuses what is one at a time, and would write the array to memory.
        if gradient.numel() <= STACKED and not torch.compiler.is_compiling():
            after = self.m9 * inverse, self.m99 * inverse, self.m9, gradient * inverse
            rows = torch.stack([row.reshape(-1) for row in (*before, *after)])
            self.norms = torch.linalg.vector_norm(rows, dim=-1)
            self.products = (rows[0] * rows[1:4]).sum(-1)
            self._small = rows[4:]  # the parameter and the four directions
        else:  # one at a time, so that each can be freed
            norms = [euclidean_norm(row) for row in before]
            norms += [euclidean_norm(m * inverse) for m in (self.m9, self.m99)]
            norms += [euclidean_norm(self.m9), euclidean_norm(gradient * inverse)]
            self.norms = torch.stack(norms)
            self.products = torch.stack([(gradient * row).sum() for row in before[1:4]])

    @property
    def size(self) -> Tensor:
        """Number of elements, 0-dim."""
        return self._gradient.new_full((), self._gradient.numel())

    @property
    def is_vector(self) -> Tensor:
        """1 for a vector or a scalar, else 0, 0-dim."""
        return self._gradient.new_full((), float(self._parameter.dim() <= 1))

    def mix(self, weights: Tensor) -> Tensor:
        """Add up parameter and directions; 0 in coordinates that have never had a gradient.

        Args:
            weights: `[5]`, in the order of `Mix`.

        Returns:
            `[*param]`.
        """
        if self._small is not None:
            mixed = (weights @ self._small).reshape(self.v.shape)
        else:
            weight = Mix(*weights.unbind())
            mixed = weight.adam * self.m9 + weight.slow_adam * self.m99
            mixed = mixed + weight.scaled_gradient * self._gradient
            mixed = mixed * (self.v + EPS).rsqrt()
            mixed = mixed + weight.m9 * self.m9 + weight.parameter * self._parameter
        # All directions are 0 there, the parameter is not.
        return mixed * self.v.sign()


def measure(tensors: Sequence[TensorDirections], whole: WholeTensors = LOCAL) -> Statistics:
    """Gather the statistics of n tensors, or of the whole tensors of which these are parts."""
    sizes = torch.stack([tensor.size for tensor in tensors]).unsqueeze(-1)
    products = torch.stack([tensor.products for tensor in tensors])
    sums = whole.sums(torch.cat([products, sizes], dim=-1))
    return make_statistics(
        whole.norms(torch.stack([tensor.norms for tensor in tensors])),
        sums[:, :-1],
        sums[:, -1].clamp(min=1),
        torch.stack([tensor.is_vector for tensor in tensors]),
    )


def measure_sums(sums: Tensor, size: Tensor, is_vector: Tensor) -> Statistics:
    """Turn sums over n tensors, `[n, 23]` as `SUMS` says, into their statistics; no derivatives.

    Args:
        sums: over the elements of whole tensors.
        size: number of elements, at least 1, `[n]`.
        is_vector: 1 for tensors of at most one dimension, else 0, `[n]`.
    """
    squares = torch.cat([sums[:, place : place + 1] for place in SQUARES], dim=-1)
    return make_statistics(squares.sqrt(), sums[:, 1:4], size, is_vector)


def mix_rms(sums: Tensor, mix: Mix, size: Tensor) -> Tensor:
    """The root mean square of `TensorDirections.mix` over each tensor, `[n]`, without a pass.

    |sum_i w_i d_i|^2 = sum_ij w_i w_j <d_i, d_j>.
    """
    left = torch.stack([mix[i] for i, _ in PAIRS], dim=-1)
    right = torch.stack([mix[j] if i == j else 2 * mix[j] for i, j in PAIRS], dim=-1)
    # In this order: the square of a weight, or of a direction, may overflow alone.
    square = (left * sums[:, 8:] * right).sum(-1).clamp(min=0)
    return safe_sqrt(square / size)


def make_statistics(norms: Tensor, products: Tensor, size: Tensor, is_vector: Tensor) -> Statistics:
    """Statistics of n tensors.

    Args:
        norms: in the order of `Norms`, `[n, 9]`.
        products: of the gradient with m9, m99 and m9 / sqrt(v) before the step, `[n, 3]`.
        size: number of elements, at least 1, `[n]`.
        is_vector: 1 for tensors of at most one dimension, else 0, `[n]`.
    """
    cosines = products / (norms[:, :1] + TINY) / (norms[:, 1:4] + TINY)
    return Statistics(
        norm=Norms(*norms.unbind(-1)),
        rms=Norms(*(norms * size.rsqrt().unsqueeze(-1) + TINY).unbind(-1)),
        cosine=Cosines(*cosines.unbind(-1)),
        size=size,
        is_vector=is_vector,
    )


def bias_factors(step: Tensor) -> ScaledDirections:
    """Factors that undo the bias of averages that started at 0: m9_hat / sqrt(v_hat), `[n]`."""
    square = slow = bias_correction(step, BETA_SLOW)  # BETA_SQUARE is the same
    root = square.sqrt()
    return ScaledDirections(
        adam=root / bias_correction(step, BETA_FAST),
        slow_adam=root / slow,
        gradient=root,
    )
