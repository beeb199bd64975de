"""A module that has other tensors, or the same, without touching the one that it is made of."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from types import MethodType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils import _pytree as pytree

M = TypeVar("M", bound=nn.Module)


def shallow_copy_module(module: M, tensors: Mapping[int, Tensor]) -> M:
    """New module objects around the same attributes: what runs in them leaves the old as they are.

    Containers of attributes are new, too; what is in them is shared. Deep copies would cost more,
    would leave behind tensors by which one wants to differentiate, and are refused by locks.

    Args:
        module: any module.
        tensors: by the id of a parameter or buffer, what is to stand in its place.
    """
    if any(hasattr(part, "_orig_mod") for part in module.modules()):
        # A compiled module has closures over the original; its own copying renews them.
        return copy.deepcopy(module, {id(value): value for value in _own(module)} | dict(tensors))
    made: M = _reflect(module, {**tensors})
    return made


def kept_in_graph(module: nn.Module) -> list[Tensor]:
    """What a module has kept of a forward pass, with the graph behind it: no copy takes that."""
    leaves = (leaf for part in module.modules() for leaf in pytree.tree_leaves(vars(part)))
    own = {id(value) for value in module.parameters()}
    return [leaf for leaf in leaves if _in_graph(leaf) and id(leaf) not in own]


def let_go_of_graphs(module: nn.Module) -> None:
    """Detach what a module has kept of a forward pass."""
    for part in module.modules():
        for kept in (vars(part), part._buffers):
            for key, value in list(kept.items()):
                if key not in ("_parameters", "_buffers", "_modules") and any(
                    _in_graph(leaf) for leaf in pytree.tree_leaves(value)
                ):
                    kept[key] = pytree.tree_map_only(Tensor, Tensor.detach, value)


def _reflect(value: Any, made: dict[int, Any]) -> Any:
    if id(value) in made:
        return made[id(value)]
    if isinstance(value, nn.Module):
        new = value.__new__(type(value))
        made[id(value)] = new
        new.__dict__ = {key: _reflect(part, made) for key, part in vars(value).items()}
        return new
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _reflect(part, made)) for key, part in value.items())
    if type(value) in (list, tuple):
        return type(value)(_reflect(part, made) for part in value)
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        return MethodType(value.__func__, _reflect(value.__self__, made))
    return value


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _in_graph(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_leaf
