"""Updates that are not finite: found on the device, not written, counted, warned about once.

Nothing here waits for an accelerator: a verdict is a 0-dim boolean there, and what is written is
chosen by `torch.where`. On the CPU, where reading a value costs nothing, it is a Python bool.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.optimizer import sharding
from learned_opt.optimizer.updates import PendingUpdate
from learned_opt.rules.base import State

Flag: TypeAlias = bool | Tensor
"""A Python bool, or 0-dim and boolean."""


@dataclass
class GuardedTensor:
    """One parameter tensor in one step.

    Attributes:
        update: the whole tensor's.
        finite_gradient: whether all of its gradient is finite.
        pieces: whether each of its pieces was written, so far.
        next_step: the state's `step` after this one.
    """

    update: PendingUpdate
    finite_gradient: Flag
    pieces: list[Flag] = field(default_factory=list)
    next_step: Tensor | None = None


class UpdateGuard:
    """Writes the results of steps where they are finite, and keeps count of where they are not.

    A tensor whose gradient is not finite is left as it is: parameter, state and `step`, bit for
    bit. So is a piece of a tensor (all of it, unless it has more than `chunk_size` coordinates)
    for which the rule's delta or new state, or the moved parameter, is not finite. Pieces written
    before it stay written, since undoing them would take a copy of the tensor; `step` advances
    if any piece was written. The tensor counts as skipped once in either case.

    The processes that share a sharded tensor agree on its gradient, so that all skip or none; its
    `step` advances if the gradient is finite.
    """

    def __init__(self) -> None:
        self._counts: dict[str, Tensor] = {}
        self._totals: dict[torch.device, Tensor] = {}
        self._mirrors: dict[torch.device, tuple[Tensor, NDArray[np.int64]]] = {}
        self._warned = False

    def open(self, updates: Sequence[PendingUpdate]) -> list[GuardedTensor]:
        """Look at the gradients of a step: one pass over each."""
        gradients = [update.gradient for update in updates]
        meshes = [update.mesh for update in updates]
        unshared = all(mesh is None for mesh in meshes)
        if unshared and _surely_finite(gradients):
            return [GuardedTensor(update, True) for update in updates]
        finite = _finite([[gradient] for gradient in gradients]).all(1)
        flags = _flags(sharding.agree(finite, meshes))
        return [GuardedTensor(update, flag) for update, flag in zip(updates, flags, strict=True)]

    def write(
        self,
        batch: Sequence[tuple[GuardedTensor, PendingUpdate]],
        deltas: Sequence[Tensor],
        moved: Sequence[Tensor],
        new_states: Sequence[State],
    ) -> None:
        """Write new parameters and states of a batch of pieces, each with its whole tensor."""
        states = [_without_step(state) for state in new_states]
        if _surely_finite([*moved, *(value for state in states for value in state.values())]):
            flags: list[Flag] = [True] * len(batch)
        else:
            pieces = [piece for _, piece in batch]
            flags = _flags(_finite_updates(pieces, deltas, moved, states))
        for (tensor, piece), parameter, state, new_state, flag in zip(
            batch, moved, states, new_states, flags, strict=True
        ):
            flag = flag & tensor.finite_gradient
            _write(piece.parameter, parameter, flag)
            for key, value in state.items():
                _write(piece.state[key], value, flag)
            tensor.pieces.append(flag)
            tensor.next_step = new_state["step"]

    def close(self, tensors: Sequence[GuardedTensor]) -> None:
        """Advance the steps of what moved, and count what was skipped."""
        whole: list[Flag] = []
        for tensor in tensors:
            every, some = tensor.pieces[0], tensor.pieces[0]
            for flag in tensor.pieces[1:]:
                every, some = every & flag, some | flag
            if tensor.update.mesh is not None:
                some = tensor.finite_gradient  # the processes know what they agreed on, no more
            if tensor.next_step is not None:
                _write(tensor.update.state["step"], tensor.next_step, some)
            whole.append(every)
        self._count(tensors, whole)

    def _count(self, tensors: Sequence[GuardedTensor], whole: Sequence[Flag]) -> None:
        names = [tensor.update.name for tensor in tensors]
        if not any(isinstance(flag, Tensor) for flag in whole):
            names = [name for name, flag in zip(names, whole, strict=True) if not flag]
            whole = [False] * len(names)
        if not names:
            return
        device = tensors[0].update.parameter.device
        one = torch.ones((), dtype=torch.int64, device=device)
        written = [flag if isinstance(flag, Tensor) else one == int(flag) for flag in whole]
        skipped = torch.stack(written).logical_not().long()
        for name in names:
            if name not in self._counts:
                self._counts[name] = torch.zeros_like(one)
        torch._foreach_add_([self._counts[name] for name in names], list(skipped.unbind()))
        if device not in self._totals:
            self._totals[device] = torch.zeros_like(one)
        self._totals[device].add_(skipped.sum())

    @property
    def skipped(self) -> int:
        """How many updates were skipped, over all tensors and steps; waits for the devices."""
        return sum(int(total) for total in self._totals.values() if not total.is_meta)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def warn(self) -> None:
        """Say once, with names, that updates were skipped.

        Never waits: of a GPU's count it reads a mirror in pinned memory, into which each step
        copies asynchronously, so that the warning can come a step or more late. Steps that are
        replayed from a CUDA graph count, but run no Python that could warn; nor does it look at
        devices other than CPU and GPU.
        """
        if self._warned or not any(self._seen(device) for device in self._totals):
            return
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return
        self._warned = True
        names = [name for name, count in self._counts.items() if not count.is_meta and int(count)]
        warnings.warn(
            f"the update of {', '.join(names)} was not finite and was skipped: parameter and "
            "state are as they were. This warning comes once; optimizer.skipped_updates counts",
            RuntimeWarning,
            stacklevel=6,  # the line that called step
        )

    def _seen(self, device: torch.device) -> int:
        """The count on a device, perhaps of some steps ago."""
        total = self._totals[device]
        if device.type not in ("cpu", "cuda"):
            return 0
        if device not in self._mirrors:
            on_gpu = device.type == "cuda"
            if on_gpu and torch.cuda.is_current_stream_capturing():
                return 0
            mirror = torch.zeros((), dtype=torch.int64, device="cpu", pin_memory=on_gpu)
            self._mirrors[device] = (mirror, mirror.numpy())
        mirror, values = self._mirrors[device]
        mirror.copy_(total, non_blocking=True)
        return int(values)


def _surely_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all of everything is finite, as far as a quick look can tell at no wait."""
    if not _is_readable(tensors[0]):
        return False
    # Their squares may overflow where they themselves do not: then a closer look is needed.
    norms = torch._foreach_norm([_measurable(tensor) for tensor in tensors], 2)
    return math.isfinite(float(torch.stack(norms).sum()))


def _finite_updates(
    pieces: Sequence[PendingUpdate],
    deltas: Sequence[Tensor],
    moved: Sequence[Tensor],
    states: Sequence[State],
) -> Tensor:
    """Which pieces, `[n]`, have a finite delta, new parameter and new state."""
    rows = [
        [delta, piece.parameter, parameter, *state.values()]
        for piece, delta, parameter, state in zip(pieces, deltas, moved, states, strict=True)
    ]
    finite = _finite(rows)
    # A parameter that holds an infinity already, as masks do, may keep it.
    kept = finite[:, 2] | (finite[:, 0] & ~finite[:, 1])
    return kept & finite[:, 3:].all(1)


def _finite(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Whether every element of each tensor is finite: `[rows, tensors]`."""
    tensors = [_measurable(tensor) for row in rows for tensor in row]
    # The largest magnitude: needs no memory, and on a GPU one kernel for all tensors.
    largest = torch.stack(torch._foreach_norm(tensors, math.inf))
    return largest.isfinite().reshape(len(rows), -1)


def _measurable(tensor: Tensor) -> Tensor:
    """A tensor that has a norm: a zero in place of what is empty or made of whole numbers."""
    if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex()):
        return tensor
    return torch.zeros((1,), device=tensor.device)


def _flags(values: Tensor) -> list[Flag]:
    """The elements of `[n]`: bools where reading them waits for nothing, else 0-dim tensors."""
    return values.tolist() if _is_readable(values) else list(values.unbind())


def _is_readable(values: Tensor) -> bool:
    # The type: values of fake and other special tensors cannot be read.
    plain = type(values) is Tensor and values.device.type == "cpu"
    return plain and not torch.compiler.is_compiling()


def _write(target: Tensor, value: Tensor, flag: Flag) -> None:
    if isinstance(flag, Tensor):
        torch.where(flag, value.to(target.dtype), target, out=target)
    elif flag:
        target.copy_(value)


def _without_step(state: State) -> State:
    return {key: value for key, value in state.items() if key != "step"}
