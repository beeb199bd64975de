"""What all steps in C share: which tensors they take, and how C gets lists of them."""

from __future__ import annotations

import ctypes
from abc import ABC
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.backends.fused_step import FusedStep
from learned_opt.backends.library import load_library, missing_library, thread_count
from learned_opt.rules.base import UpdateRule
from learned_opt.updates import PendingUpdate

LARGEST = float(np.finfo(np.float32).max)
"""The largest finite number in float32."""


class StepInC(FusedStep, ABC):
    """Abstract: a step in C, for float32 tensors in the CPU's memory. Subclasses add `step`."""

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """Refuse where there is no library, and rules that were cast to another dtype."""
        if rule.dtype != torch.float32:
            return f"the rule is in {_short(rule.dtype)}, not float32"
        return missing_library()

    def refuses_parameter(self, parameter: Tensor) -> str | None:
        """Refuse what is not plain contiguous float32 memory of the CPU."""
        why = refuses_memory(parameter.detach())
        return None if why is None else f"it {why}"

    def refuses(self, update: PendingUpdate) -> str | None:
        """Refuse a tensor if it, its gradient or its state is not plain memory; see above."""
        why = refuses_memory(update.parameter)
        if why is not None:
            return f"it {why}"
        why = refuses_memory(update.gradient)
        if why is not None:
            return f"its gradient {why}"
        for key, value in update.state.items():
            why = refuses_memory(value)
            if why is not None:
                return f"its state {key!r} {why}"
        return None


def refuses_memory(tensor: Tensor) -> str | None:
    """Why C cannot read and write the memory of a tensor; None if it can."""
    # The exact type: DTensors, fake and other special tensors have no memory of their own.
    if type(tensor) is not Tensor:
        return f"is a {type(tensor).__name__}"
    if tensor.device.type != "cpu":
        return f"is on {tensor.device}, not on the CPU"
    if tensor.dtype != torch.float32:
        return f"is {_short(tensor.dtype)}, not float32"
    if tensor.layout != torch.strided or not tensor.is_contiguous():
        return "is not contiguous"
    if tensor.is_neg() or tensor._is_zerotensor():  # the memory does not hold the values
        return "is lazily negated or zero"
    return None


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def call_c(function: str, *arguments: NDArray[Any] | int | float) -> None:
    """Call a function of the C library.

    Args:
        function: its name, without `learned_opt_`.
        arguments: contiguous arrays, which C gets as pointers; ints, as `int64_t`; floats, as
            `double`.

    Raises:
        RuntimeError: there is no library; `StepInC.refuses_rule` says so before.
        MemoryError: there was no memory for the work; nothing was written.
    """
    library = load_library()
    if library is None:
        raise RuntimeError(missing_library())
    if library[f"learned_opt_{function}"](*(_as_c(argument) for argument in arguments)):
        raise MemoryError(f"no memory for the work of {function}")


def _as_c(argument: NDArray[Any] | int | float) -> Any:
    if isinstance(argument, np.ndarray):
        if not argument.flags.c_contiguous:
            raise ValueError(f"C reads contiguous arrays, got strides {argument.strides}")
        return ctypes.c_void_p(argument.ctypes.data)
    return ctypes.c_int64(argument) if isinstance(argument, int) else ctypes.c_double(argument)


def sizes(tensors: Sequence[Tensor]) -> NDArray[np.int64]:
    """Numbers of elements, as C reads them."""
    return np.array([tensor.numel() for tensor in tensors], dtype=np.int64)


def largest(tensors: Sequence[Tensor]) -> NDArray[np.float32]:
    """The largest magnitude in each tensor, `[n]`; infinite or NaN if the tensor has such."""
    counts, found = sizes(tensors), np.empty(len(tensors), dtype=np.float32)
    threads = thread_count(int(counts.sum()))
    call_c("largest", len(tensors), counts, addresses(tensors), found, threads)
    return found


def addresses(tensors: Sequence[Tensor]) -> NDArray[np.uintp]:
    """Where the elements of each tensor lie, as C reads them."""
    return np.array([tensor.data_ptr() for tensor in tensors], dtype=np.uintp)


def rates(updates: Sequence[PendingUpdate]) -> NDArray[np.float64]:
    """Learning rate and weight decay of each tensor, `[n, 2]`."""
    pairs: dict[int, tuple[float, float]] = {}
    for update in updates:
        group = update.group
        if id(group) not in pairs:
            pairs[id(group)] = float(group["lr"]), float(group["weight_decay"])
    return np.array([pairs[id(update.group)] for update in updates], dtype=np.float64)
