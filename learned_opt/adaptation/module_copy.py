"""Copies modules without their tensors, and finds the autograd graphs that modules hold."""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Mapping
from types import MethodType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils import _pytree as pytree

M = TypeVar("M", bound=nn.Module)


def shallow_copy_module(module: M, tensors: Mapping[int, Tensor]) -> M:
    """Make new module objects that share the old ones' tensors and other attributes.

    A forward pass of the copy that assigns attributes leaves the original unchanged: containers of
    attributes are new, too. A deep copy would cost more, would copy the tensors to differentiate
    by, and fails on attributes such as locks.

    Args:
        module: any module.
        tensors: replacements, by the id of the parameter or buffer that they replace.
    """
    if any(_is_compiled(part) for part in module.modules()):
        # A compiled module has closures over the original; its own deepcopy renews them.
        return copy.deepcopy(module, {id(value): value for value in _own(module)} | dict(tensors))
    copied: M = _copy_structure(module, {**tensors})
    return copied


def find_graph_tensors(module: nn.Module) -> list[Tensor]:
    """Tensors that a module has kept from a forward pass, with a graph: deepcopy refuses them."""
    leaves = (leaf for part in module.modules() for leaf in pytree.tree_leaves(vars(part)))
    own = {id(value) for value in module.parameters()}
    return [leaf for leaf in leaves if _in_graph(leaf) and id(leaf) not in own]


def detach_graph_tensors(module: nn.Module) -> None:
    """Detach the tensors that a module has kept from a forward pass."""
    for part in module.modules():
        for kept in (vars(part), part._buffers):
            for key, value in list(kept.items()):
                if key not in ("_parameters", "_buffers", "_modules") and any(
                    _in_graph(leaf) for leaf in pytree.tree_leaves(value)
                ):
                    kept[key] = pytree.tree_map_only(Tensor, Tensor.detach, value)


def _copy_structure(value: Any, made: dict[int, Any]) -> Any:
    if id(value) in made:
        return made[id(value)]
    if isinstance(value, nn.Module):
        new = value.__new__(type(value))
        made[id(value)] = new
        new.__dict__ = {key: _copy_structure(part, made) for key, part in vars(value).items()}
        return new
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _copy_structure(part, made)) for key, part in value.items())
    if type(value) in (list, tuple):
        return type(value)(_copy_structure(part, made) for part in value)
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        return MethodType(value.__func__, _copy_structure(value.__self__, made))
    return value


def _is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile made the module; without importing torch._dynamo, which is slow."""
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _in_graph(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_leaf
