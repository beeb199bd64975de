"""Runs modules with other tensors, on copies, and finds the autograd graphs that modules hold."""

from __future__ import annotations

import copy
import functools
import random
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from learned_opt.adaptation.plain_modules import copy_plain_module, is_plain

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")

_IMMUTABLE = frozenset({bool, int, float, str, type(None)})

_STATEFUL = (set, deque, bytearray, np.ndarray, np.random.Generator, np.random.RandomState)
"""Types of attributes, other than containers of modules, that a forward pass may write."""


def call_with_tensors(
    module: nn.Module, tensors: Mapping[str, Tensor], function: Callable[[nn.Module], T]
) -> tuple[T, dict[str, Tensor]]:
    """Call a function on a copy of a module that has copies of other tensors.

    Unlike `torch.func.functional_call`, the tensors stay in the copy, so that activation
    checkpointing finds them when it computes again in the backward pass. Nothing that the function
    writes reaches the module or the tensors: the copy has its own attributes and generators.
    Compiled modules go through `functional_call`: their own code is bound to them, so the function
    must differentiate inside, and what it writes into parameters and attributes stays.
    Modules made of torch.nn's layers (`plain_modules`) are copied in a cheaper way.

    Args:
        module: any module; it is left alone.
        tensors: parameters and buffers by name; copies of the module's own replace missing ones.
        function: gets the copy.

    Returns:
        The function's result, and the tensors as the function left them, by the same names.
    """
    if torch.compiler.is_compiling() or _is_compiled(module):
        # Not the parameters: a compiled module warns of tensors that are no leaves.
        kept = dict(module.named_parameters())
        lent = {
            f"module.{key}": value if key in kept else value.clone()
            for key, value in tensors.items()
        }
        result = functional_call(_Caller(module, function), lent)
        # functional_call has put buffers that the module reassigned into the dict.
        return result, {key: lent[f"module.{key}"] for key in tensors}
    if is_plain(module):  # writes nothing but buffers
        plain, buffers = copy_plain_module(module, tensors)
        result = function(plain)
        return result, {key: buffers.get(key, value) for key, value in tensors.items()}
    own = {key: value.clone() for key, value in tensors.items()}
    made: dict[int, Any] = {}
    for key, value in _named_tensors(module):
        if key in own:
            made[id(value)] = own[key]
    for _, value in _named_tensors(module):
        if id(value) not in made:
            made[id(value)] = value.clone()
    copied = _copy_structure(module, made, clone=True)
    result = function(copied)
    after = dict(_named_tensors(copied))
    return result, {key: after.get(key, value) for key, value in own.items()}


class _Caller(nn.Module):
    """A function of a module as a module, for `functional_call`."""

    def __init__(self, module: nn.Module, function: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self) -> Any:
        return self.function(self.module)


def shallow_copy_module(module: M, tensors: Mapping[int, Tensor]) -> M:
    """Make new module objects that share the old ones' tensors and other attributes.

    A forward pass of the copy that assigns attributes leaves the original unchanged: containers of
    attributes are new, too. A deep copy would cost more, would copy the tensors to differentiate
    by, and fails on attributes such as locks.

    Args:
        module: any module.
        tensors: replacements, by the id of the parameter or buffer that they replace.
    """
    if _is_compiled(module):
        # A compiled module has closures over the original; its own deepcopy renews them.
        return copy.deepcopy(module, {id(value): value for value in _own(module)} | dict(tensors))
    kept = {id(value): value for value in _own(module)}
    copied: M = _copy_structure(module, {**kept, **tensors}, clone=False)
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


def _copy_structure(value: Any, made: dict[int, Any], *, clone: bool) -> Any:
    """Copy modules, containers and functions, and with `clone` all else that a call may write.

    Args:
        value: a module, or anything that an attribute of a module holds.
        made: copies by the id of the original.
        clone: copy tensors, arrays and generators, too.
    """
    kind = type(value)
    if kind in _IMMUTABLE:
        return value
    if id(value) in made:
        return made[id(value)]
    if kind in (dict, OrderedDict) and not value:  # hooks, mostly
        made[id(value)] = kind()
        return made[id(value)]

    def again(part: Any) -> Any:
        return _copy_structure(part, made, clone=clone)

    new: Any = value
    if isinstance(value, nn.Module):
        new = object.__new__(type(value))  # not the class's own, which may make another class
        made[id(value)] = new
        new.__dict__ = {
            key: part if type(part) in _IMMUTABLE else again(part)
            for key, part in vars(value).items()
        }
    elif type(value) in (dict, OrderedDict, Counter):
        new = type(value)()
        made[id(value)] = new
        for key, part in value.items():
            new[key] = again(part)
    elif type(value) is defaultdict:
        new = defaultdict(value.default_factory, {key: again(part) for key, part in value.items()})
    elif type(value) in (list, tuple):
        new = type(value)(again(part) for part in value)
    elif isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        return MethodType(value.__func__, again(value.__self__))
    elif type(value) is functools.partial:
        named = {key: again(part) for key, part in value.keywords.items()}
        new = functools.partial(again(value.func), *map(again, value.args), **named)
        vars(new).update(vars(value))
    elif isinstance(value, FunctionType) and value.__closure__:
        new = _copy_function(value, made, again)
    elif clone and isinstance(value, Tensor):
        new = value.clone()
    elif clone and isinstance(value, torch.Generator):
        new = torch.Generator(value.device)
        new.set_state(value.get_state())
    elif clone and isinstance(value, random.Random):
        new = copy.deepcopy(value)
    elif clone and isinstance(value, _STATEFUL):
        new = copy.deepcopy(value)
    made[id(value)] = new
    return new


def _copy_function(
    value: FunctionType, made: dict[int, Any], again: Callable[[Any], Any]
) -> FunctionType:
    """Copy a function with its closure, which may hold the module that is copied."""
    cells = tuple(CellType() for _ in value.__closure__ or ())
    new = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
    functools.update_wrapper(new, value)
    new.__kwdefaults__ = value.__kwdefaults__
    made[id(value)] = new  # it may call itself
    for cell, old in zip(cells, value.__closure__ or (), strict=True):
        try:
            contents = old.cell_contents
        except ValueError:  # empty
            continue
        # Containers stay the caller's: a hook may record into them.
        reads = isinstance(contents, (nn.Module, MethodType, FunctionType, functools.partial))
        cell.cell_contents = again(contents) if reads else contents
    return new


def _is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile made a part; without importing torch._dynamo, which is slow."""
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo is not None and any(
        isinstance(part, dynamo.OptimizedModule) for part in module.modules()
    )


def _named_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers by all of their names; tied ones have several."""
    return [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _in_graph(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_leaf
