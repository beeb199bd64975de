"""Modules made of torch.nn's layers alone, which a cheap copy is enough to protect.

The forward pass of these layers writes nothing but buffers, and nothing runs in the backward pass
that reads the module. So a copy may share all else with the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

PLAIN: frozenset[type[nn.Module]] = frozenset(
    {
        *(nn.Sequential, nn.Identity, nn.Flatten, nn.Unflatten, nn.Linear, nn.Bilinear),
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
        *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Embedding),
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm),
        *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
        *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU),
        *(nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.LogSigmoid),
        *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softmax, nn.LogSoftmax),
        *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.CrossEntropyLoss),
        *(nn.NLLLoss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.KLDivLoss),
    }
)
"""Layers that write buffers only. Subclasses are not among them: their code is unknown."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

_OVERRIDES = frozenset(
    {"forward", "_conv_forward", "_call_impl", "_wrapped_call_impl", "_compiled_call_impl"}
)
"""Attributes of an object that run in place of its class's code."""


def is_plain(module: nn.Module) -> bool:
    """Whether the module and all of its parts are layers of `PLAIN`, without hooks.

    Looked up at every call: hooks and parts may come and go. It takes a microsecond for each part.
    """
    attributes = vars(module)
    if type(module) not in PLAIN or not _OVERRIDES.isdisjoint(attributes):
        return False
    if any(attributes[name] for name in _HOOKS):
        return False
    if type(module) is nn.Embedding and module.max_norm is not None:  # writes its weight
        return False
    return all(part is not None and is_plain(part) for part in attributes["_modules"].values())


def copy_plain_module(module: M, tensors: Mapping[str, Tensor]) -> tuple[M, dict[str, Tensor]]:
    """Make new module objects that have other tensors.

    Args:
        module: a plain module; it is left alone.
        tensors: parameters and buffers by name; the module's own replace missing ones.

    Returns:
        The copy, and its buffers by name. They are copies, which a forward pass may write; the
        parameters are the tensors themselves.
    """
    copied = _Copying(tensors)
    return copied.copy(module, ""), copied.buffers


class _Copying:
    """Copies of the parts of one module; a part or a tensor that stands twice is copied once."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.buffers: dict[str, Tensor] = {}
        self._parts: dict[int, nn.Module] = {}
        self._replaced: dict[int, Tensor] = {}

    def copy(self, module: M, prefix: str) -> M:
        """Copy a part whose tensors have names that begin with `prefix`."""
        if id(module) in self._parts:
            return self._parts[id(module)]  # type: ignore[return-value]
        attributes = dict(vars(module))
        new: M = object.__new__(type(module))
        self._parts[id(module)] = new
        attributes["_parameters"] = {
            name: value if value is None else self._replacement(prefix + name, value)
            for name, value in attributes["_parameters"].items()
        }
        attributes["_buffers"] = {
            name: value if value is None else self._buffer(prefix + name, value)
            for name, value in attributes["_buffers"].items()
        }
        attributes["_modules"] = {
            name: self.copy(part, f"{prefix}{name}.")
            for name, part in attributes["_modules"].items()
        }
        vars(new).update(attributes)
        return new

    def _replacement(self, name: str, value: Tensor) -> Tensor:
        if name in self.tensors:
            self._replaced[id(value)] = self.tensors[name]
        return self._replaced.get(id(value), value)

    def _buffer(self, name: str, value: Tensor) -> Tensor:
        if name in self.tensors or id(value) not in self._replaced:
            self._replaced[id(value)] = self.tensors.get(name, value).clone()
        self.buffers[name] = self._replaced[id(value)]
        return self.buffers[name]
