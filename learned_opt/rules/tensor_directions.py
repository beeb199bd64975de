"""Hand-made directions of whole tensors, how long they are, and weighted sums of them."""

from __future__ import annotations

import torch
from torch import Tensor

BETA_FAST, BETA_SLOW, BETA_SQUARE = 0.9, 0.99, 0.99
"""Decays of the momenta m9 and m99 and of the mean square v."""

EPS = 1e-24
"""Under the root of v; its own root, 1e-12, is far below gradients that mean anything."""

STACKED = 1 << 16
"""Tensors of at most so many elements are handled in fewer, larger operations, on copies."""


class TensorDirections:
    """The moving averages of one tensor after a gradient, and what can be made of them.

    The directions are m9 / sqrt(v) (Adam's), m99 / sqrt(v), m9, and gradient / sqrt(v), without
    bias corrections, and the parameter itself.

    Args:
        gradient: `[*param]`, as all the others.
        parameter: before the step.
        m9: running mean of gradients, before the step.
        m99: a slower one.
        v: running mean of squared gradients.

    Attributes:
        m9: after the step, `[*param]`.
        m99: after the step.
        v: after the step.
        norms: `[9]`, of gradient; old m9, m99 and m9 / sqrt(v); parameter; the four directions.
        products: `[3]`, of the gradient with the old m9, m99 and m9 / sqrt(v).
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
        if gradient.numel() <= STACKED:
            after = self.m9 * inverse, self.m99 * inverse, self.m9, gradient * inverse
            rows = torch.stack([row.reshape(-1) for row in (*before, *after)])
            self.norms = torch.linalg.vector_norm(rows, dim=-1)
            self.products = (rows[0] * rows[1:4]).sum(-1)
            self._small = rows[4:]
        else:  # one at a time, so that each can be freed
            norms = [_norm(row) for row in before]
            norms += [_norm(m * inverse) for m in (self.m9, self.m99)]
            norms += [_norm(self.m9), _norm(gradient * inverse)]
            self.norms = torch.stack(norms)
            self.products = torch.stack([(gradient * row).sum() for row in before[1:4]])

    def mix(self, weights: Tensor) -> Tensor:
        """Add up parameter and directions, but 0 where there never was a gradient.

        Args:
            weights: `[5]`, of the parameter and the four directions.

        Returns:
            `[*param]`.
        """
        if self._small is not None:
            mixed = (weights @ self._small).reshape(self.v.shape)
        else:
            of_p, of_m9, of_m99, of_plain, of_g = weights.unbind()
            mixed = of_m9 * self.m9 + of_m99 * self.m99 + of_g * self._gradient
            mixed = mixed * (self.v + EPS).rsqrt() + of_plain * self.m9 + of_p * self._parameter
        # All directions are 0 there, the parameter is not.
        return mixed * self.v.sign()


def _norm(value: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(value)
    return norm
