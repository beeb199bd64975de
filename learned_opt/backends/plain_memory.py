"""Which tensors code can take that reads and writes their memory itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from learned_opt.backends.fused_step import FusedStep
from learned_opt.rules.base import UpdateRule
from learned_opt.updates import PendingUpdate

FLOAT32 = torch.float32


class PlainMemoryStep(FusedStep, ABC):
    """Abstract: a step of float32 tensors that are plain contiguous memory of the CPU.

    Numbers of a coordinate lie unit by unit: state `[*param, H]` is a view of `[H, *param]`.
    """

    @property
    def device_type(self) -> str:
        """The CPU."""
        return "cpu"

    @abstractmethod
    def state_shapes(self, rule: UpdateRule, shape: torch.Size) -> Mapping[str, tuple[int, ...]]:
        """The shapes of all state tensors of a parameter of `shape` that it reads."""

    def refuses_parameter(self, parameter: Tensor) -> str | None:
        """Refuse a parameter that is not plain contiguous float32 memory of the CPU."""
        why = refuses_memory(parameter.detach())
        return None if why is None else f"it {why}"

    def refuses(self, rule: UpdateRule, update: PendingUpdate) -> str | None:
        """Refuse a tensor if it, its gradient or its state is not plain memory; see above."""
        if update.mesh is not None:
            # Processes agree on the gradients of sharded tensors, where the rule steps them.
            return "it is sharded"
        if not is_plain(update.parameter):
            return f"it {refuses_memory(update.parameter)}"
        if not is_plain(update.gradient):
            return f"its gradient {refuses_memory(update.gradient)}"
        shapes = self.state_shapes(rule, update.parameter.shape)
        why = refuses_shapes(update, shapes)
        if why is not None:
            return why
        dims = update.parameter.dim()
        for key in shapes:
            value = update.state[key]
            unit_major = value.movedim(-1, 0) if value.dim() > dims else value
            if not is_plain(unit_major):
                return f"its state {key!r} {refuses_memory(unit_major)}"
        return None


def is_plain(tensor: Tensor) -> bool:
    """Whether `refuses_memory` would say None, in a tenth of the time."""
    return (
        type(tensor) is Tensor
        and tensor.dtype is FLOAT32
        and tensor.is_cpu
        and not tensor.is_sparse
        and tensor.is_contiguous()
        and not tensor.is_neg()
        and not tensor._is_zerotensor()
    )


def refuses_shapes(update: PendingUpdate, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Why gradient or state do not fit the parameter, which may have got other memory since.

    Code that trusts the number of elements would leave the memory of the smaller ones.

    Args:
        update: the tensor.
        shapes: of state tensors, by key.
    """
    shape = update.parameter.shape
    if update.gradient.shape != shape:
        return f"its gradient has shape {list(update.gradient.shape)}, not {list(shape)}"
    for key, expected in shapes.items():
        value = update.state.get(key)
        if not isinstance(value, Tensor):
            return f"its state has no tensor {key!r}"
        if value.shape != expected:
            return f"its state {key!r} has shape {list(value.shape)}, not {list(expected)}"
    return None


def refuses_memory(tensor: Tensor) -> str | None:
    """Why code cannot read and write the memory of a tensor; None if it can."""
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


def refuses_cast(rule: UpdateRule) -> str | None:
    """Why a rule that was cast to another dtype cannot be stepped; None if it was not."""
    return None if rule.dtype is FLOAT32 else f"the rule is in {_short(rule.dtype)}, not float32"
