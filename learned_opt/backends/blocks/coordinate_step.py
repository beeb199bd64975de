"""The base class of steps in blocks of coordinate-wise rules."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.backends.blocks.rows import Rows
from learned_opt.backends.c_steps.step_in_c import are_float32, rates
from learned_opt.backends.coordinate_parts import coordinate_rule, left_to_rule
from learned_opt.backends.places import Places
from learned_opt.backends.plain_memory import PlainMemoryStep, refuses_cast
from learned_opt.rules.base import Context, UpdateRule
from learned_opt.updates import PendingUpdate

MEMORY = 15 << 18
"""Bytes of the rows of a block, 3.75 MiB; kept between steps."""

MOST, LEAST = 1 << 14, 1 << 8
"""Coordinates of a block. Fewer cost more calls, more do not stay in the cache."""

Compute: TypeAlias = Callable[[Rows], Tensor | None]
"""Steps a block: replaces its rows of state by the new ones, and writes the row `delta`.

Returns 1 for each coordinate that is not idle and 0 for the others, `[1, N]`, or None if none is
idle. State and delta of idle ones are then set to zero; see `CoordinateRule`."""


@dataclass(slots=True, eq=False)
class _Block:
    """One piece of a tensor, or several whole tensors with equal rates and steps.

    Attributes:
        numbers: of the tensors in the step.
        start: of the piece in its tensor.
        counts: coordinates of each.
        tensors: by the name of the rows, the part of each, `[rows, coordinates]`.
    """

    numbers: list[int]
    start: int
    counts: list[int]
    tensors: dict[str, list[Tensor]]


class CoordinateStepInBlocks(PlainMemoryStep, ABC):
    """Abstract: a network's step for each coordinate, for machines without the C library.

    A block is computed in rows of one memory, and written to the tensors if all of its numbers are
    finite. All others are left to the rule.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0, device="cpu")
        self._rows: tuple[Mapping[str, int], Rows] | None = None

    @abstractmethod
    def layout(self, rule: UpdateRule) -> Mapping[str, int]:
        """The rows of a block, by name: all state, `gradient`, `parameter`, `delta`, and others.

        `gradient` is the negated one under `maximize`.
        """

    @abstractmethod
    def prepare(self, rule: UpdateRule, step: float, loss: float | None) -> Compute:
        """The computation for tensors that take this step, counted from 1.

        `loss` is the negated one under `maximize`.
        """

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """Refuse rules that were cast to another dtype."""
        return refuses_cast(rule)

    def state_shapes(self, rule: UpdateRule, shape: torch.Size) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the rule's state for each coordinate, and of `step`."""
        trailing = coordinate_rule(rule).coordinate_state()
        return {"step": (), **{key: (*shape, *trailing[key]) for key in trailing}}

    @torch.inference_mode()
    def step(
        self,
        rule: UpdateRule,
        places: Places,
        context: Context,
        maximize: bool,
    ) -> list[PendingUpdate]:
        """See `FusedStep.step`."""
        updates = places.updates
        loss = None if context.loss is None else float(context.loss)
        if loss is not None and not math.isfinite(loss):
            return list(updates)
        if loss is not None and maximize:
            loss = -loss
        layout, own = self.layout(rule), coordinate_rule(rule)
        count = MEMORY // (4 * sum(layout.values()))
        count = max(LEAST, min(MOST, count // LEAST * LEAST))
        names = [*own.coordinate_state(), "parameter"]

        # Of gradients whose squares overflow, the norm is infinite: those, too, are left.
        norms = torch.stack(torch._foreach_norm([update.gradient for update in updates], 2))
        lr, decay = rates(updates).T
        untouched = ~(norms.isfinite().numpy() & are_float32(lr, decay))
        steps = torch.stack([update.state["step"] for update in updates]) + 1
        alike = list(zip(lr.tolist(), decay.tolist(), steps.tolist(), strict=True))
        pieces = [-(-update.parameter.numel() // count) for update in updates]
        first = np.cumsum([0, *pieces])
        doubtful = np.zeros(first[-1], dtype=np.uint8)
        prepared: dict[float, Compute] = {}
        for block in _blocks(updates, alike, untouched, names, count):
            number = block.numbers[0]
            rate, shrink, step = alike[number]
            if step not in prepared:
                prepared[step] = self.prepare(rule, step, loss)
            rows = self._rows_of(layout, sum(block.counts))
            if not _step_block(block, rows, names, prepared[step], rate, shrink, maximize):
                if len(block.numbers) > 1:
                    untouched[block.numbers] = True
                else:
                    doubtful[first[number] + block.start // count] = 1
        for number, update in enumerate(updates):
            own_pieces = doubtful[first[number] : first[number + 1]]
            if update.parameter.numel() and own_pieces.all():
                untouched[number] = True
        moved = [u.state["step"] for u, left in zip(updates, untouched, strict=True) if not left]
        if moved:
            torch._foreach_add_(moved, 1)
        return left_to_rule(own, updates, untouched, doubtful, count)

    def _rows_of(self, layout: Mapping[str, int], count: int) -> Rows:
        """The rows of a block; most blocks of a step have one size."""
        if self._rows is not None and self._rows[1].count == count and self._rows[0] == layout:
            return self._rows[1]
        needed = sum(layout.values()) * count
        if self._memory.numel() < needed:
            self._memory = torch.empty(needed, dtype=torch.float32, device="cpu")
        self._rows = layout, Rows(self._memory, layout, count)
        return self._rows[1]


def _step_block(
    block: _Block,
    rows: Rows,
    names: Sequence[str],
    compute: Compute,
    lr: float,
    decay: float,
    maximize: bool,
) -> bool:
    """Step a block; whether it was written."""
    for name in ("gradient", *names):
        torch.cat(block.tensors[name], dim=1, out=rows[name])
    if maximize:
        rows["gradient"].neg_()
    active = compute(rows)
    parameter, delta = rows["parameter"], rows["delta"]
    if active is not None:
        for name in ("delta", *names):
            if name != "parameter":
                rows[name].mul_(active)
    if decay:
        # One factor for both, since the old parameter is gone after either.
        delta.mul_(lr).add_(parameter, alpha=-lr * decay)
        parameter.add_(delta)
    else:
        parameter.add_(delta, alpha=lr)
    # A sum is finite only if all numbers are.
    if not math.isfinite(float(rows.around(names).sum())):
        return False
    for name in names:
        own = block.tensors[name]
        torch._foreach_copy_(own, list(rows[name].split(block.counts, dim=1)))
    return True


def _blocks(
    updates: Sequence[PendingUpdate],
    alike: Sequence[tuple[float, float, float]],
    untouched: NDArray[np.bool_],
    names: Sequence[str],
    limit: int,
) -> Iterator[_Block]:
    """Cut large tensors into pieces, and join small ones that follow each other and are alike."""
    numbers: list[int] = []
    total = 0
    for number, update in enumerate(updates):
        count = update.parameter.numel()
        if untouched[number] or not count:
            continue
        fits = total + count <= limit and (not numbers or alike[number] == alike[numbers[0]])
        if numbers and not fits:
            yield _joined(updates, numbers, names)
            numbers, total = [], 0
        if count > limit:
            split = {
                name: tensor.split(limit, dim=1) for name, tensor in _flat(update, names).items()
            }
            for piece in range(-(-count // limit)):
                tensors = {name: [parts[piece]] for name, parts in split.items()}
                start = piece * limit
                yield _Block([number], start, [min(limit, count - start)], tensors)
        else:
            numbers.append(number)
            total += count
    if numbers:
        yield _joined(updates, numbers, names)


def _joined(updates: Sequence[PendingUpdate], numbers: list[int], names: Sequence[str]) -> _Block:
    flat = [_flat(updates[number], names) for number in numbers]
    counts = [updates[number].parameter.numel() for number in numbers]
    tensors = {name: [tensors[name] for tensors in flat] for name in ("gradient", *names)}
    return _Block(numbers, 0, counts, tensors)


def _flat(update: PendingUpdate, names: Sequence[str]) -> dict[str, Tensor]:
    """Views of a tensor and its state, `[rows, coordinates]`."""
    dims = update.parameter.dim()
    found = {"gradient": update.gradient.view(1, -1)}
    for name in names:
        value = update.parameter if name == "parameter" else update.state[name]
        rows = value.movedim(-1, 0) if value.dim() > dims else value.unsqueeze(0)
        found[name] = rows.view(len(rows), -1)
    return found
