"""Orthogonalised momentum in place, on the CPU: few passes over memory, small tensors together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.backends.fused_step import FusedStep
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.rules.orthogonal_momentum import (
    FADE,
    RMS_FLOOR,
    RMS_USUAL,
    SIZE_BETA,
    TINY,
    VECTOR_BETAS,
    VECTOR_FLOOR,
    OrthogonalMomentum,
    is_stepped_as_matrix,
)
from learned_opt.rules.orthogonalize import matrix_shape, orthogonalize_unit
from learned_opt.updates import PendingUpdate, batch_by_size

SAFE = 1e-15, 1e15
"""Norms between these can be squared in float32; tensors with others are left to the rule."""

TOGETHER = 1 << 20
"""Elements of matrices of one shape that are orthogonalised at once. It bounds the memory."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class _Call:
    """What the tensors of a call share."""

    rule: OrthogonalMomentum
    sign: float
    total_steps: float | None


@dataclass(frozen=True)
class _Batch:
    """Tensors that are stepped together, and their numbers, `[n]` each."""

    updates: list[PendingUpdate]
    step: Numbers
    size: Numbers
    averaged: Numbers
    gradient_norm: Numbers
    parameter_norm: Numbers

    def tensors(self, key: str) -> list[Tensor]:
        return [update.state[key] for update in self.updates]

    @property
    def parameters(self) -> list[Tensor]:
        return [update.parameter for update in self.updates]

    @property
    def gradients(self) -> list[Tensor]:
        return [update.gradient for update in self.updates]

    @property
    def counts(self) -> Numbers:
        return np.array([update.parameter.numel() for update in self.updates], dtype=np.float64)

    def option(self, name: str) -> Numbers:
        return np.array([float(update.group[name]) for update in self.updates])

    def take(self, chosen: Sequence[int]) -> _Batch:
        index = np.array(chosen, dtype=np.int64)
        return _Batch(
            [self.updates[k] for k in chosen],
            self.step[index],
            self.size[index],
            self.averaged[index],
            self.gradient_norm[index],
            self.parameter_norm[index],
        )


class OrthogonalMomentumInPlace(FusedStep):
    """The step of `OrthogonalMomentum` for float32 tensors in the CPU's memory.

    Numbers per tensor are computed on the host, in double precision. All norms that decide whether
    a step is finite are read before anything is written.
    """

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """Refuse a rule that was cast to another dtype."""
        if rule.dtype != torch.float32:
            return f"the rule is in {str(rule.dtype).removeprefix('torch.')}, not float32"
        return None

    def refuses_parameter(self, parameter: Tensor) -> str | None:
        """Refuse what is not float32 memory of the CPU, and parts of sharded tensors."""
        why = _refuses(parameter.detach())
        return None if why is None else f"it {why}"

    def refuses(self, update: PendingUpdate) -> str | None:
        """Refuse a tensor if it, its gradient or its state is not plain memory; see above."""
        if update.sharded is not None:
            return "it is a DTensor"
        named = {"it": update.parameter, "its gradient": update.gradient}
        named |= {f"its state {key!r}": value for key, value in update.state.items()}
        for name, tensor in named.items():
            why = _refuses(tensor)
            if why is not None:
                return f"{name} {why}"
        return None

    def step(
        self,
        rule: UpdateRule,
        updates: Sequence[PendingUpdate],
        context: Context,
        maximize: bool,
    ) -> list[PendingUpdate]:
        """See `FusedStep.step`."""
        if not isinstance(rule, OrthogonalMomentum):
            raise TypeError(f"expected OrthogonalMomentum, got {type(rule).__name__}")
        total = None if context.total_steps is None else float(context.total_steps)
        call = _Call(rule, -1.0 if maximize else 1.0, total)
        safe, left = _sort_out(updates, call)
        for batch in _batches(safe):
            left += (_step_matrices if _is_matrix(batch.updates[0]) else _step_vectors)(batch, call)
        return left


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


def _norms(tensors: Sequence[Tensor]) -> Numbers:
    """Frobenius norms, `[n]`; NaN or infinite if a tensor holds such numbers."""
    found = torch.stack(torch._foreach_norm(list(tensors), 2)).numpy()
    return np.asarray(found, dtype=np.float64)


def _sort_out(updates: Sequence[PendingUpdate], call: _Call) -> tuple[_Batch, list[PendingUpdate]]:
    """Tensors all of whose new numbers will be finite, and the others."""
    filled = [update for update in updates if update.parameter.numel()]
    left = [update for update in updates if not update.parameter.numel()]
    if not filled:
        none = np.empty(0)
        return _Batch([], none, none, none, none, none), left
    low, high = SAFE
    scalars = torch.stack([update.state["scalars"] for update in filled]).double().numpy()
    step = torch.stack([update.state["step"] for update in filled]).double().numpy() + 1
    gradient = _norms([update.gradient for update in filled])
    parameter = _norms([update.parameter for update in filled])
    batch = _Batch(filled, step, scalars[:, 0], scalars[:, 1], gradient, parameter)
    most = np.max([parameter, _norms(batch.tensors("m")), _norms(batch.tensors("average"))], axis=0)
    # A direction has a norm of at most a few times the root of its number of coordinates.
    lr, decay = batch.option("lr"), batch.option("weight_decay")
    with np.errstate(invalid="ignore"):  # infinities
        moved = lr * (np.sqrt(np.maximum(parameter, 1) * batch.counts) + decay * parameter)
        is_safe = (gradient > low) & (gradient < high) & (most < high) & (moved < high)
    left += [update for update, safe in zip(filled, is_safe, strict=True) if not safe]
    return batch.take(np.flatnonzero(is_safe).tolist()), left


def _batches(batch: _Batch) -> Iterator[_Batch]:
    """Matrices of one shape together, and vectors of one number of steps."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for k, update in enumerate(batch.updates):
        matrix = matrix_shape(update.parameter.shape) if _is_matrix(update) else None
        alike.setdefault((matrix, None if matrix else batch.step[k]), []).append(k)
    for members in alike.values():
        sizes = [batch.updates[k].parameter.numel() for k in members]
        for some in batch_by_size(members, sizes, TOGETHER):
            yield batch.take(some)


def _step_matrices(batch: _Batch, call: _Call) -> list[PendingUpdate]:
    """Step matrices of one shape; return those that were left untouched."""
    momentum, sign = call.rule.momentum, call.sign
    shape = matrix_shape(batch.parameters[0].shape)
    # m and its look-ahead, both from the old m: nothing is written before the norms are known.
    ahead = torch.stack([gradient.reshape(shape) for gradient in batch.gradients])
    ahead.mul_(sign * (1 - momentum) * (1 + momentum))
    rows = list(ahead.unbind())
    old = [m.reshape(shape) for m in batch.tensors("m")]
    torch._foreach_add_(rows, old, alpha=momentum**2)
    norms = torch.linalg.vector_norm(ahead, dim=(-2, -1), keepdim=True)
    norm = norms.flatten().double().numpy()
    low, high = SAFE
    good = (norm > low) & (norm < high)
    if not good.all():
        kept = np.flatnonzero(good).tolist()
        rest = [u for u, ok in zip(batch.updates, good, strict=True) if not ok]
        return rest + (_step_matrices(batch.take(kept), call) if kept else [])
    directions = orthogonalize_unit(ahead.div_(norms), call.rule.iterations)
    torch._foreach_mul_(batch.tensors("m"), momentum)
    torch._foreach_add_(batch.tensors("m"), batch.gradients, alpha=sign * (1 - momentum))
    factor = _advance(batch, call, norm) * math.sqrt(max(shape))
    directions = directions.mul_(_on_host(factor).float()[:, None, None])
    parts = [
        direction.reshape(parameter.shape)
        for direction, parameter in zip(directions.unbind(), batch.parameters, strict=True)
    ]
    torch._foreach_add_(batch.parameters, parts)
    return []


def _step_vectors(batch: _Batch, call: _Call) -> list[PendingUpdate]:
    """Step vectors with one number of steps; all of their coordinates are one array."""
    (b1, b2), t = VECTOR_BETAS, float(batch.step[0])
    m, v, g = (
        torch.cat([tensor.reshape(-1) for tensor in tensors])
        for tensors in (batch.tensors("m"), batch.tensors("v"), batch.gradients)
    )
    m.mul_(b1).add_(g, alpha=call.sign * (1 - b1))
    v.mul_(b2).addcmul_(g, g, value=1 - b2)
    root = (v / -math.expm1(t * math.log(b2))).sqrt_()
    direction = m / -math.expm1(t * math.log(b1)) / root
    direction.masked_fill_(root == 0, 0)
    sizes = [parameter.numel() for parameter in batch.parameters]
    parts = [
        part.reshape(parameter.shape)
        for part, parameter in zip(direction.split(sizes), batch.parameters, strict=True)
    ]
    new_m, new_v = (
        [part.reshape(p.shape) for part, p in zip(flat.split(sizes), batch.parameters, strict=True)]
        for flat in (m, v)
    )
    norm, m_norm = _norms(parts), _norms(new_m)
    finite = np.isfinite(norm + m_norm + _norms(new_v))
    if not finite.all():
        kept = np.flatnonzero(finite).tolist()
        rest = [u for u, ok in zip(batch.updates, finite, strict=True) if not ok]
        return rest + (_step_vectors(batch.take(kept), call) if kept else [])
    torch._foreach_copy_(batch.tensors("m"), new_m)
    torch._foreach_copy_(batch.tensors("v"), new_v)
    factor = _advance(batch, call, m_norm)
    factor = factor / np.maximum(norm / np.sqrt(batch.counts), VECTOR_FLOOR)
    torch._foreach_mul_(parts, factor.tolist())
    torch._foreach_add_(batch.parameters, parts)
    return []


def _advance(batch: _Batch, call: _Call, momentum_norm: Numbers) -> Numbers:
    """Write all but momentum and move; return the factor on each direction, `[n]`.

    `momentum_norm`, `[n]`, is that of the momentum whose death shortens the step.
    """
    root, step = np.sqrt(batch.counts), batch.step
    size = SIZE_BETA * batch.size + (1 - SIZE_BETA) * batch.gradient_norm / root
    taken = step - 1
    weight = np.where(taken > batch.averaged, 9 / (taken + 8), 0.0)
    _lerp(batch.tensors("average"), batch.parameters, weight)
    scalars = _on_host(np.stack([size, np.maximum(taken, batch.averaged)], 1)).float()
    torch._foreach_copy_(batch.tensors("scalars"), list(scalars.unbind()))
    torch._foreach_add_(batch.tensors("step"), 1)
    lr = batch.option("lr") * _schedule(call, step)
    decay = batch.option("weight_decay")
    if decay.any():
        torch._foreach_mul_(batch.parameters, (1 - lr * decay).tolist())
    usual = size / -np.expm1(step * math.log(SIZE_BETA))
    fade = np.minimum(momentum_norm / root / np.maximum(FADE * usual, TINY), 1)
    length = np.sqrt(np.maximum(batch.parameter_norm / root, RMS_FLOOR) / RMS_USUAL)
    return np.asarray(-lr * length * fade)


def _lerp(targets: list[Tensor], values: list[Tensor], weights: Numbers) -> None:
    alike: dict[float, list[int]] = {}
    for k, weight in enumerate(weights.tolist()):
        alike.setdefault(weight, []).append(k)
    for weight, members in alike.items():
        if weight:
            torch._foreach_lerp_(
                [targets[k] for k in members], [values[k] for k in members], weight
            )


def _on_host(numbers: Numbers) -> Tensor:
    """Numbers as a tensor of the CPU, whatever the default device is."""
    return torch.from_numpy(numbers)


def _schedule(call: _Call, step: Numbers) -> Numbers:
    planned = None if call.total_steps is None else _on_host(np.array(call.total_steps))
    found = call.rule.schedule(_on_host(step), planned)
    return np.asarray(found.numpy())
