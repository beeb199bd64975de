"""Orthogonalised momentum in place, on the CPU: few passes over memory, small tensors together."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from learned_opt.backends.fused_step import FusedStep, expect
from learned_opt.backends.orthogonal_momentum.batch import (
    TOGETHER,
    Batch,
    Call,
    advance,
    norms,
    on_host,
)
from learned_opt.backends.orthogonal_momentum.moments import (
    MakeVectorSteps,
    VectorSteps,
    vector_steps,
)
from learned_opt.backends.orthogonal_momentum.products_in_place import InPlaceByC, InPlaceByTorch
from learned_opt.backends.orthogonal_momentum.vectors_in_c import vector_steps_in_c
from learned_opt.backends.places import Places
from learned_opt.backends.plain_memory import refuses_shapes
from learned_opt.c_library import is_generic, missing_library
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.rules.orthogonal_momentum import (
    VECTOR_FLOOR,
    OrthogonalMomentum,
    is_stepped_as_matrix,
)
from learned_opt.rules.parts.matrix_products import Products
from learned_opt.rules.parts.orthogonalize import (
    direction_scale,
    matrix_shape,
    orthogonalize_unit,
)
from learned_opt.updates import PendingUpdate, batch_by_size

SAFE = 1e-15, 1e15
"""Norms between these can be squared in float32; tensors with others are left to the rule."""


class OrthogonalMomentumOnCPU(FusedStep, ABC):
    """Abstract: the step of `OrthogonalMomentum` for float32 tensors in the CPU's memory.

    Numbers per tensor are computed on the host, in double precision. All norms that decide whether
    a step is finite are read before anything is written. Subclasses choose who multiplies matrices.
    """

    products: ClassVar[Products]
    """How matrices are multiplied."""

    def vector_steps(self, batch: Batch, sign: float, betas: tuple[float, float]) -> VectorSteps:
        """See `moments.vector_steps`."""
        return vector_steps(batch, sign, betas)

    @property
    def device_type(self) -> str:
        """The CPU."""
        return "cpu"

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """Refuse a rule that was cast to another dtype."""
        if rule.dtype != torch.float32:
            return f"the rule is in {str(rule.dtype).removeprefix('torch.')}, not float32"
        return None

    def refuses_parameter(self, parameter: Tensor) -> str | None:
        """Refuse a parameter that is not float32 memory of the CPU, and a part of a sharded one."""
        why = _refuses(parameter.detach())
        return None if why is None else f"it {why}"

    def refuses(self, rule: UpdateRule, update: PendingUpdate) -> str | None:
        """Refuse a tensor if it, its gradient or its state is not plain memory; see above."""
        if update.sharded is not None:
            return "it is a DTensor"
        named = {"it": update.parameter, "its gradient": update.gradient}
        named |= {f"its state {key!r}": value for key, value in update.state.items()}
        for name, tensor in named.items():
            why = _refuses(tensor)
            if why is not None:
                return f"{name} {why}"
        vector = () if _is_matrix(update) else ("v",)
        return refuses_shapes(
            update, dict.fromkeys(("m", "average", *vector), update.parameter.shape)
        )

    def step(
        self,
        rule: UpdateRule,
        places: Places,
        context: Context,
        maximize: bool,
    ) -> list[PendingUpdate]:
        """See `FusedStep.step`."""
        total = None if context.total_steps is None else float(context.total_steps)
        sign = -1.0 if maximize else 1.0
        own = expect(rule, OrthogonalMomentum)
        call = Call(own, sign, total, self.products)
        safe, left = _sort_out(places.updates, call)
        for batch in _batches(safe):
            if _is_matrix(batch.updates[0]):
                left += _step_matrices(batch, call)
            else:
                left += _step_vectors(batch, call, self.vector_steps)
        return left


@final
class OrthogonalMomentumInC(OrthogonalMomentumOnCPU):
    """Matrices are multiplied in C, and vectors step there; the rest is PyTorch's.

    A symmetric product is half of the work in C.
    """

    code = "torch and C"
    products = InPlaceByC()

    def vector_steps(self, batch: Batch, sign: float, betas: tuple[float, float]) -> VectorSteps:
        """See `vector_steps_in_c`."""
        return vector_steps_in_c(batch, sign, betas)

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """Refuse where there is no library, or one that multiplies more slowly than torch."""
        why = super().refuses_rule(rule) or missing_library()
        if why is None and is_generic():
            return "its C library has no vector instructions, and torch multiplies faster"
        return why


@final
class OrthogonalMomentumInPlace(OrthogonalMomentumOnCPU):
    """Plain torch, for machines without the C library."""

    products = InPlaceByTorch()


def _refuses(tensor: Tensor) -> str | None:
    """Why a tensor cannot be stepped here; None if it can."""
    if type(tensor) is not Tensor:
        return f"is a {type(tensor).__name__}"
    if tensor.device.type != "cpu":
        return f"is on {tensor.device}, not on the CPU"
    if tensor.dtype != torch.float32:
        return f"is {str(tensor.dtype).removeprefix('torch.')}, not float32"
    if tensor.layout != torch.strided:
        return "is not strided"
    return None


def _is_matrix(update: PendingUpdate) -> bool:
    return is_stepped_as_matrix(update.parameter, update.state)


def _sort_out(updates: Sequence[PendingUpdate], call: Call) -> tuple[Batch, list[PendingUpdate]]:
    """Tensors all of whose new numbers will be finite, and the others."""
    filled = [update for update in updates if update.parameter.numel()]
    left = [update for update in updates if not update.parameter.numel()]
    if not filled:
        none = np.empty(0)
        return Batch([], none, none, none, none, none, none, none), left
    low, high = SAFE
    scalars = torch.stack([update.state["scalars"] for update in filled]).double().numpy()
    step = torch.stack([update.state["step"] for update in filled]).double().numpy() + 1
    gradient = norms([update.gradient for update in filled])
    parameter = norms([update.parameter for update in filled])
    momentum = norms([update.state["m"] for update in filled])
    size, averaged, pace = scalars.T
    batch = Batch(filled, step, size, averaged, pace, gradient, parameter, momentum)
    most = np.max([parameter, momentum, norms(batch.tensors("average"))], axis=0)
    # A direction has a norm of at most a few times the root of its number of coordinates.
    lr, decay = np.abs(batch.option("lr")), np.abs(batch.option("weight_decay"))
    numbers = np.abs([batch.step, batch.size, batch.averaged, batch.pace]).max(0)
    with np.errstate(invalid="ignore", over="ignore"):  # infinities
        moved = lr * (np.sqrt(np.maximum(parameter, 1) * batch.counts) + decay * parameter)
        is_safe = (gradient > low) & (gradient < high) & (most < high) & (moved < high)
        is_safe &= (lr * decay < high) & (numbers < high) & (batch.step >= 1)
    left += [update for update, safe in zip(filled, is_safe, strict=True) if not safe]
    return batch.take(np.flatnonzero(is_safe).tolist()), left


def _batches(batch: Batch) -> Iterator[Batch]:
    """Matrices of one shape together, and vectors of one number of steps."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for k, update in enumerate(batch.updates):
        matrix = matrix_shape(update.parameter.shape) if _is_matrix(update) else None
        alike.setdefault((matrix, None if matrix else batch.step[k]), []).append(k)
    for members in alike.values():
        sizes = [batch.updates[k].parameter.numel() for k in members]
        for some in batch_by_size(members, sizes, TOGETHER):
            yield batch.take(some)


def _step_matrices(batch: Batch, call: Call) -> list[PendingUpdate]:
    """Step matrices of one shape; return those that were left untouched."""
    momentum, sign = call.rule.momentum, call.sign
    shape = matrix_shape(batch.parameters[0].shape)
    # m and its look-ahead, both from the old m: nothing is written before the norms are known.
    ahead = torch.stack([gradient.reshape(shape) for gradient in batch.gradients])
    ahead.mul_(sign * (1 - momentum) * (1 + momentum))
    rows = list(ahead.unbind())
    old = [m.reshape(shape) for m in batch.tensors("m")]
    torch._foreach_add_(rows, old, alpha=momentum**2)
    lengths = torch.linalg.vector_norm(ahead, dim=(-2, -1), keepdim=True)
    norm = lengths.flatten().double().numpy()
    low, high = SAFE
    good = (norm > low) & (norm < high)
    if not good.all():
        kept = np.flatnonzero(good).tolist()
        rest = [u for u, ok in zip(batch.updates, good, strict=True) if not ok]
        return rest + (_step_matrices(batch.take(kept), call) if kept else [])
    directions = orthogonalize_unit(ahead.div_(lengths), call.rule.iterations, call.products)
    torch._foreach_mul_(batch.tensors("m"), momentum)
    torch._foreach_add_(batch.tensors("m"), batch.gradients, alpha=sign * (1 - momentum))
    scales = [direction_scale(parameter.shape) for parameter in batch.parameters]
    factor = advance(batch, call, norm, matrices=True) * np.array(scales)
    directions = directions.mul_(on_host(factor).float()[:, None, None])
    parts = [
        direction.reshape(parameter.shape)
        for direction, parameter in zip(directions.unbind(), batch.parameters, strict=True)
    ]
    torch._foreach_add_(batch.parameters, parts)
    return []


def _step_vectors(batch: Batch, call: Call, begin: MakeVectorSteps) -> list[PendingUpdate]:
    """Step vectors with one number of steps; return those that were left untouched."""
    vectors = begin(batch, call.sign, call.rule.vector_betas)
    norm, m_norm = vectors.norms()
    finite = np.isfinite(norm + m_norm)
    if not finite.all():
        kept = np.flatnonzero(finite).tolist()
        rest = [u for u, ok in zip(batch.updates, finite, strict=True) if not ok]
        return rest + (_step_vectors(batch.take(kept), call, begin) if kept else [])
    factor = advance(batch, call, m_norm, matrices=False)
    vectors.take(factor / np.maximum(norm / np.sqrt(batch.counts), VECTOR_FLOOR))
    return []
