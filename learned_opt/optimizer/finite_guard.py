"""Skips updates that are not finite: finds them on the device, counts them, warns once.

Nothing here waits for an accelerator. There a flag is a 0-dim boolean tensor, and `torch.where`
chooses what is written. On the CPU, where reading a value is free, a flag is a Python bool.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.not_compiled import not_compiled
from learned_opt.optimizer import sharding
from learned_opt.real_tensors import has_no_values
from learned_opt.rules.base import State
from learned_opt.updates import PendingUpdate

Flag: TypeAlias = bool | Tensor
"""A Python bool, or 0-dim and boolean."""


@dataclass
class GuardedTensor:
    """One parameter tensor in one step.

    Attributes:
        update: the update of the whole tensor.
        finite_gradient: whether all of its gradient is finite.
        committed: for each piece so far, whether it was written.
        next_step: the state's `step` after this one.
    """

    update: PendingUpdate
    finite_gradient: Flag
    committed: list[Flag] = field(default_factory=list)
    next_step: Tensor | None = None


class FiniteGuard:
    """Writes the results of a step where they are finite, and counts the tensors that it skips.

    A step calls `check_gradients` once, `commit` for each batch of pieces, and `finish` once.

    A tensor whose gradient is not finite keeps its parameter, state and `step`, bit for bit. So
    does a piece of a tensor (the whole tensor, up to `chunk_size` coordinates) if the rule's delta,
    the new state or the new parameter is not finite. Pieces written before it stay written, since
    undoing them would take a copy of the tensor; `step` advances if any piece was written. The
    tensor counts as skipped once in either case.

    The processes that share a sharded tensor agree on its gradient, so that all skip or none; its
    `step` advances if the gradient is finite.
    """

    def __init__(self) -> None:
        self._skipped_by_name: dict[str, Tensor] = {}
        self._skipped_by_device: dict[torch.device, Tensor] = {}
        self._host_copies: dict[torch.device, tuple[Tensor, NDArray[np.int64]]] = {}
        self._warned = False

    def check_gradients(self, updates: Sequence[PendingUpdate]) -> list[GuardedTensor]:
        """Start a step: check all gradients, in one pass over each."""
        gradients = [update.gradient for update in updates]
        meshes = [update.mesh for update in updates]
        unshared = all(mesh is None for mesh in meshes)
        if unshared and _known_finite(gradients):
            return [GuardedTensor(update, True) for update in updates]
        finite = _finite([[gradient] for gradient in gradients]).all(1)
        flags = _flags(sharding.all_parts(finite, meshes))
        return [GuardedTensor(update, flag) for update, flag in zip(updates, flags, strict=True)]

    def commit(
        self,
        batch: Sequence[tuple[GuardedTensor, PendingUpdate]],
        deltas: Sequence[Tensor],
        new_parameters: Sequence[Tensor],
        new_states: Sequence[State],
    ) -> None:
        """Write the finite ones of new parameters and states; a batch pairs tensors and pieces."""
        states = [_without_step(state) for state in new_states]
        results = [*new_parameters, *(value for state in states for value in state.values())]
        if _known_finite(results):
            flags: list[Flag] = [True] * len(batch)
        else:
            pieces = [piece for _, piece in batch]
            flags = _flags(_finite_updates(pieces, deltas, new_parameters, states))
        for (tensor, piece), parameter, state, new_state, flag in zip(
            batch, new_parameters, states, new_states, flags, strict=True
        ):
            flag = flag & tensor.finite_gradient
            _write(piece.parameter, parameter, flag)
            for key, value in state.items():
                _write(piece.state[key], value, flag)
            tensor.committed.append(flag)
            tensor.next_step = new_state["step"]

    def finish(self, tensors: Sequence[GuardedTensor]) -> None:
        """End a step: advance `step` of the tensors that moved, count those that were skipped."""
        whole: list[Flag] = []
        for tensor in tensors:
            every, some = tensor.committed[0], tensor.committed[0]
            for flag in tensor.committed[1:]:
                every, some = every & flag, some | flag
            if tensor.update.mesh is not None:
                # Processes have exchanged the gradient's flag only, and `step` must be the same.
                some = tensor.finite_gradient
            if tensor.next_step is not None:
                _write(tensor.update.state["step"], tensor.next_step, some)
            whole.append(every)
        self._count(tensors, whole)

    def _count(self, tensors: Sequence[GuardedTensor], whole: Sequence[Flag]) -> None:
        """Count the tensors that were not wholly written."""
        names = [tensor.update.name for tensor in tensors]
        if not any(isinstance(flag, Tensor) for flag in whole):
            # Faster code may leave several parts of one tensor.
            updates = [tensor.update for tensor in tensors]
            skipped = [update for update, flag in zip(updates, whole, strict=True) if not flag]
            named = dict.fromkeys((id(update.group), update.name) for update in skipped)
            names = [name for _, name in named]
            whole = [False] * len(names)
        if not names:
            return
        device = tensors[0].update.parameter.device
        one = torch.ones((), dtype=torch.int64, device=device)
        written = [flag if isinstance(flag, Tensor) else one == int(flag) for flag in whole]
        self._add_skipped(names, torch.stack(written).logical_not())

    def count_on_device(self, updates: Sequence[PendingUpdate], written: Tensor) -> None:
        """Count tensors that faster code has skipped.

        Args:
            updates: the tensors of a step, on one device.
            written: whether each was written, `[n]`, boolean, on that device.
        """
        self._add_skipped([update.name for update in updates], written.logical_not())

    def _add_skipped(self, names: Sequence[str], is_skipped: Tensor) -> None:
        device, skipped = is_skipped.device, is_skipped.long()
        for name in names:
            if name not in self._skipped_by_name:
                zero = torch.zeros((), dtype=torch.int64, device=device)
                self._skipped_by_name[name] = zero
        torch._foreach_add_([self._skipped_by_name[name] for name in names], list(skipped.unbind()))
        if device not in self._skipped_by_device:
            self._skipped_by_device[device] = torch.zeros((), dtype=torch.int64, device=device)
        self._skipped_by_device[device].add_(skipped.sum())

    @property
    def skipped(self) -> int:
        """Number of skipped updates over all tensors and steps; waits for the devices."""
        totals = self._skipped_by_device.values()
        return sum(int(total) for total in totals if not has_no_values(total))

    @not_compiled
    def warn(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Warn once, with names, that updates were skipped.

        Args:
            groups: the parameter groups. Without names of parameters, positions are given.

        Never waits. The count on a GPU is copied asynchronously to pinned memory in each step and
        read there, so the warning may come a step or more late. Steps replayed from a CUDA graph
        are counted, but run no Python that could warn. Only CPU and GPU are looked at.
        """
        devices = self._skipped_by_device
        if self._warned or not any(self._last_known_count(device) for device in devices):
            return
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return
        self._warned = True
        counts = self._skipped_by_name
        names = [name for name, n in counts.items() if not has_no_values(n) and int(n)]
        if not any(group.get("param_names") for group in groups):
            places = [name.split(".") for name in names]
            names = [f"parameter {position} of group {group}" for group, position in places]
        warnings.warn(
            f"the update of {', '.join(names)} was not finite and was skipped; parameter and state "
            "are unchanged. This warning comes once; see optimizer.skipped_updates for the count",
            RuntimeWarning,
            stacklevel=7,  # the line that called step
        )

    def _last_known_count(self, device: torch.device) -> int:
        """The count on a device, perhaps of an earlier step."""
        total = self._skipped_by_device[device]
        if device.type not in ("cpu", "cuda") or type(total) is not Tensor:  # a fake one
            return 0
        if device not in self._host_copies:
            on_gpu = device.type == "cuda"
            if on_gpu and torch.cuda.is_current_stream_capturing():
                return 0
            copy = torch.zeros((), dtype=torch.int64, device="cpu", pin_memory=on_gpu)
            self._host_copies[device] = (copy, copy.numpy())
        copy, values = self._host_copies[device]
        copy.copy_(total, non_blocking=True)
        return int(values)


def _known_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all elements of all tensors are finite.

    Cheap check without device sync; False means unknown.
    """
    if not _is_readable(tensors[0]):
        return False
    # Squares of large finite numbers may overflow: then the answer is unknown.
    norms = torch._foreach_norm([_zero_if_without_norm(tensor) for tensor in tensors], 2)
    return math.isfinite(float(torch.stack(norms).sum()))


def _finite_updates(
    pieces: Sequence[PendingUpdate],
    deltas: Sequence[Tensor],
    new_parameters: Sequence[Tensor],
    states: Sequence[State],
) -> Tensor:
    """Which pieces, `[n]`, have a finite delta, new parameter and new state."""
    rows = [
        [delta, piece.parameter, parameter, *state.values()]
        for piece, delta, parameter, state in zip(
            pieces, deltas, new_parameters, states, strict=True
        )
    ]
    finite = _finite(rows)
    # A parameter that holds an infinity already, as masks do, may keep it.
    kept = finite[:, 2] | (finite[:, 0] & ~finite[:, 1])
    return kept & finite[:, 3:].all(1)


def _finite(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Whether every element of each tensor is finite: `[rows, tensors]`."""
    tensors = [_zero_if_without_norm(tensor) for row in rows for tensor in row]
    # The largest magnitude: needs no memory, and on a GPU one kernel for all tensors.
    largest = torch.stack(torch._foreach_norm(tensors, math.inf))
    return largest.isfinite().reshape(len(rows), -1)


def _zero_if_without_norm(tensor: Tensor) -> Tensor:
    """Put a zero in place of a tensor without a norm, which is empty or of integers."""
    if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex()):
        return tensor
    return torch.zeros((1,), device=tensor.device)


def _flags(values: Tensor) -> list[Flag]:
    """The elements of `[n]`: bools if reading them needs no sync, else 0-dim tensors."""
    return values.tolist() if _is_readable(values) else list(values.unbind())


def _is_readable(values: Tensor) -> bool:
    # The exact type: values of fake and other special tensors cannot be read.
    plain = type(values) is Tensor and values.device.type == "cpu"
    return plain and not torch.compiler.is_compiling()


def _write(target: Tensor, value: Tensor, flag: Flag) -> None:
    if isinstance(flag, Tensor):
        torch.where(flag, value.to(target.dtype), target, out=target)
    elif flag:
        target.copy_(value)


def _without_step(state: State) -> State:
    return {key: value for key, value in state.items() if key != "step"}
