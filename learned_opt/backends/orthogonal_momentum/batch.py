"""Tensors that orthogonalised momentum steps together, with their numbers on the host."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.rules.orthogonal_momentum import (
    FADE,
    TINY,
    OrthogonalMomentum,
)
from learned_opt.rules.parts.matrix_products import Products
from learned_opt.rules.parts.momentum_constants import (
    RMS_FLOOR,
    RMS_USUAL,
    SIZE_BETA,
)
from learned_opt.rules.parts.pace import cosine_from_lengths, next_pace
from learned_opt.updates import PendingUpdate

Numbers = NDArray[np.float64]

TOGETHER = 1 << 18
"""Elements of small tensors that are stepped together: their copies stay in the cache."""

BLOCK = 1 << 16
"""Elements of a large tensor that are read, changed and written at once."""


@dataclass(frozen=True)
class Call:
    """The settings that all tensors of a call share.

    Attributes:
        rule: whose step it is.
        sign: -1 to maximise, else 1.
        total_steps: the planned number of steps, or None.
        products: how matrices are multiplied.
    """

    rule: OrthogonalMomentum
    sign: float
    total_steps: float | None
    products: Products


@dataclass(frozen=True)
class Batch:
    """Tensors that are stepped together, and their numbers, `[n]` each.

    Attributes:
        updates: the tensors.
        step: the number of this step, from 1.
        size: the running mean of the gradient's RMS, before this step.
        averaged: the number of the last step that is in the average.
        pace: the logarithm of the factor on the step, before this step.
        gradient_norm: Frobenius norms of the gradients.
        parameter_norm: of the parameters, before this step.
        momentum_norm: of the momenta, before this step.
    """

    updates: list[PendingUpdate]
    step: Numbers
    size: Numbers
    averaged: Numbers
    pace: Numbers
    gradient_norm: Numbers
    parameter_norm: Numbers
    momentum_norm: Numbers

    def tensors(self, key: str) -> list[Tensor]:
        """A state tensor of each."""
        return [update.state[key] for update in self.updates]

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters."""
        return [update.parameter for update in self.updates]

    @property
    def gradients(self) -> list[Tensor]:
        """The gradients."""
        return [update.gradient for update in self.updates]

    @property
    def counts(self) -> Numbers:
        """Numbers of coordinates."""
        return np.array([update.parameter.numel() for update in self.updates], dtype=np.float64)

    def option(self, name: str) -> Numbers:
        """An option of each tensor's parameter group."""
        return np.array([float(update.group[name]) for update in self.updates])

    def take(self, chosen: Sequence[int]) -> Batch:
        """The batch of the tensors at some positions."""
        index = np.array(chosen, dtype=np.int64)
        return Batch(
            [self.updates[k] for k in chosen],
            self.step[index],
            self.size[index],
            self.averaged[index],
            self.pace[index],
            self.gradient_norm[index],
            self.parameter_norm[index],
            self.momentum_norm[index],
        )


def in_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Equal parts of tensors of one shape, at least `[1]`: of few rows if one is not contiguous."""
    if all(tensor.is_contiguous() for tensor in tensors):
        tensors = tuple(tensor.view(-1) for tensor in tensors)
    rows = max(1, BLOCK * len(tensors[0]) // tensors[0].numel())
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def norms(tensors: Sequence[Tensor]) -> Numbers:
    """Frobenius norms, `[n]`; NaN or infinite if a tensor holds such numbers."""
    found = torch.stack(torch._foreach_norm(list(tensors), 2)).numpy()
    return np.asarray(found, dtype=np.float64)


def advance(batch: Batch, call: Call, mixed: Numbers, *, matrices: bool) -> Numbers:
    """Write all but momentum and move; return the factor on each direction, `[n]`.

    `mixed`, `[n]`, are the norms of the look-ahead of matrices, or of the new momentum of vectors.
    """
    root, step, constants = np.sqrt(batch.counts), batch.step, call.rule.constants
    size = SIZE_BETA * batch.size + (1 - SIZE_BETA) * batch.gradient_norm / root
    taken = step - 1
    averaging = float(constants.averaging)
    weight = np.where(taken > batch.averaged, (averaging + 1) / (taken + averaging), 0.0)
    _lerp(batch.tensors("average"), batch.parameters, weight)
    length = np.maximum(batch.parameter_norm / root, RMS_FLOOR)
    pace = _pace(batch, call, mixed, _distances(batch) / root / length if matrices else None)
    scalars = on_host(np.stack([size, np.maximum(taken, batch.averaged), pace], 1)).float()
    torch._foreach_copy_(batch.tensors("scalars"), list(scalars.unbind()))
    torch._foreach_add_(batch.tensors("step"), 1)
    lr = batch.option("lr") * _schedule(call, step)
    decay = batch.option("weight_decay")
    if decay.any():
        torch._foreach_mul_(batch.parameters, (1 - lr * decay).tolist())
    usual = size / -np.expm1(step * math.log(SIZE_BETA))
    fade = np.minimum(mixed / root / np.maximum(FADE * usual, TINY), 1)
    factor = float(constants.matrix_step if matrices else constants.vector_step)
    return np.asarray(-lr * factor * np.exp(pace) * np.sqrt(length / RMS_USUAL) * fade)


def _distances(batch: Batch) -> Numbers:
    """Norms of parameter - average, `[n]`; of large tensors by blocks, for the memory."""
    parameters, averages = batch.parameters, batch.tensors("average")
    if len(parameters) > 1:
        return norms(torch._foreach_sub(parameters, averages))
    found = [norms([p - average]) for p, average in in_blocks(parameters[0], averages[0])]
    return np.asarray(np.sqrt(np.square(found).sum(0)))


def _pace(batch: Batch, call: Call, mixed: Numbers, distance: Numbers | None) -> Numbers:
    """The new pace, `[n]`; `distance`, `[n]`, of matrices: see `next_pace`."""
    cosine = cosine_from_lengths(
        on_host(batch.gradient_norm),
        on_host(batch.momentum_norm),
        on_host(mixed),
        call.rule.kept_in_lookahead(distance is not None),
    )
    found = next_pace(
        on_host(batch.pace),
        cosine,
        on_host(batch.step),
        distance=None if distance is None else on_host(distance),
        constants=call.rule.constants.pace,
    )
    return np.asarray(found.numpy())


def _lerp(targets: list[Tensor], values: list[Tensor], weights: Numbers) -> None:
    alike: dict[float, list[int]] = {}
    for k, weight in enumerate(weights.tolist()):
        alike.setdefault(weight, []).append(k)
    for weight, members in alike.items():
        if weight:
            torch._foreach_lerp_(
                [targets[k] for k in members], [values[k] for k in members], weight
            )


def on_host(numbers: Numbers) -> Tensor:
    """Numbers as a tensor of the CPU, whatever the default device is."""
    return torch.from_numpy(numbers)


def _schedule(call: Call, step: Numbers) -> Numbers:
    planned = None if call.total_steps is None else on_host(np.array(call.total_steps))
    found = call.rule.schedule(on_host(step), planned)
    return np.asarray(found.numpy())
