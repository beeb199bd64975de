"""The base class of steps in Triton: picks the tensors that it takes, in tables by dtype."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from learned_opt.backends.fused_step import DeviceStep
from learned_opt.backends.triton.rates import Rates
from learned_opt.backends.triton.table import Dtypes, TensorTable, Upload
from learned_opt.rules.base import State, UpdateRule
from learned_opt.updates import PendingUpdate

DTYPES = (torch.float32, torch.bfloat16)
"""Of parameters and gradients. The largest number in float16 is so small that sums over a tensor
could not tell a move that overflows from one that does not."""

LARGEST = 3e38
"""Numbers below it are finite in float32 and in bfloat16."""


class StepInTriton(DeviceStep, ABC):
    """Abstract: a step by kernels in Triton; subclasses add `step` and the layouts of the state.

    With `TRITON_INTERPRET=1` in the environment, Triton's interpreter steps tensors on the CPU:
    slowly, for tests.
    """

    code = "Triton"

    def __init__(self) -> None:
        super().__init__()
        self.rates = Rates()
        self._tables: dict[Hashable, TensorTable] = {}
        self._sizes = Upload()
        self._constants: dict[tuple[tuple[float, ...], torch.device], Tensor] = {}

    @property
    def device_type(self) -> str:
        """CUDA, or the CPU for the interpreter."""
        return device_type()

    def refuses_rule(self, rule: UpdateRule) -> str | None:
        """Refuse without Triton, and rules that were cast to another dtype."""
        if rule.dtype != torch.float32:
            return f"the rule is in {_short(rule.dtype)}, not float32"
        return missing_triton()

    def refuses_parameter(self, parameter: Tensor) -> str | None:
        """Refuse a parameter that is not contiguous float32 or bfloat16 memory of a GPU."""
        why = _refuses(parameter.detach(), DTYPES)
        return None if why is None else f"it {why}"

    def refuses(self, rule: UpdateRule, update: PendingUpdate) -> str | None:
        """Refuse a tensor if it, its gradient or its state is not plain memory; see above."""
        if update.mesh is not None:
            return "it is sharded"
        why = _refuses(update.parameter, DTYPES)
        if why is not None:
            return f"it {why}"
        why = _refuses(update.gradient, DTYPES)
        if why is not None:
            return f"its gradient {why}"
        return self.refuses_state(update.state)

    @abstractmethod
    def refuses_state(self, state: State) -> str | None:
        """Why a state does not fit; None if it does."""

    def table(self, key: Hashable, block: int, tensors: Sequence[Sequence[Tensor]]) -> TensorTable:
        """A table of tensors for one launch, kept under its key for the next step."""
        if key not in self._tables:
            self._tables[key] = TensorTable(block)
        self._tables[key].point_to(tensors)
        return self._tables[key]

    def sizes(self, updates: Sequence[PendingUpdate], device: torch.device) -> Tensor:
        """Number of elements, at least 1, `[n]`, int64."""
        counts = tuple(max(update.parameter.numel(), 1) for update in updates)
        return self._sizes.get((counts, device), lambda: np.array(counts), device)

    def constants(self, numbers: tuple[float, ...], device: torch.device) -> Tensor:
        """Numbers on a device, `[n]`, float32, copied there once."""
        if (numbers, device) not in self._constants:
            made = torch.tensor(numbers, dtype=torch.float32, device=device)
            self._constants[numbers, device] = made
        return self._constants[numbers, device]

    def write_numbers(
        self, updates: Sequence[PendingUpdate], after: Mapping[str, Tensor], written: Tensor
    ) -> None:
        """Write small state tensors, such as `step`, of the tensors that were written.

        Args:
            updates: `n` tensors.
            after: new state, `[n, *shape]`, by name.
            written: `[n]`, boolean.
        """
        for key, new in after.items():
            own = [update.state[key] for update in updates]
            flag = written.reshape(-1, *[1] * (new.dim() - 1))
            kept = torch.where(flag, new, torch.stack(own))
            torch._foreach_copy_(own, list(kept.unbind()))


def by_dtypes(updates: Sequence[PendingUpdate]) -> dict[Dtypes, list[PendingUpdate]]:
    """Group tensors by the dtypes of parameter and gradient."""
    groups: dict[Dtypes, list[PendingUpdate]] = {}
    for update in updates:
        groups.setdefault((update.parameter.dtype, update.gradient.dtype), []).append(update)
    return groups


def on(device: torch.device) -> AbstractContextManager[object]:
    """A context in which kernels are launched on a device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def refuses_state(state: Mapping[str, Tensor]) -> str | None:
    """Why state tensors are not all contiguous float32 memory of the GPU; None if they are."""
    for key, value in state.items():
        why = _refuses(value, (torch.float32,))
        if why is not None:
            return f"its state {key!r} {why}"
    return None


@lru_cache(maxsize=1)
def missing_triton() -> str | None:
    """Why there is no Triton to use; None if there is one."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    return None


def interprets() -> bool:
    """Whether Triton's interpreter steps tensors on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def device_type() -> str:
    """The type of the devices that kernels run on."""
    return "cpu" if interprets() else "cuda"


def _refuses(tensor: Tensor, dtypes: Sequence[torch.dtype]) -> str | None:
    # The exact type: DTensors, fake and other special tensors have no memory of their own.
    if type(tensor) is not Tensor:
        return f"is a {type(tensor).__name__}"
    if tensor.device.type != device_type():
        return f"is on {tensor.device}, not on a GPU"
    if tensor.dtype not in dtypes:
        return f"is {_short(tensor.dtype)}, not {' or '.join(map(_short, dtypes))}"
    if tensor.layout != torch.strided or not tensor.is_contiguous():
        return "is not contiguous"
    if tensor.is_neg() or tensor._is_zerotensor():  # the memory does not hold the values
        return "is lazily negated or zero"
    return None


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
