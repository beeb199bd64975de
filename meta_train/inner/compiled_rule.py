"""The step of a population of rules, compiled by `torch.compile`: a third of the time of vmap.

A graph is compiled for every number of tensors (and which of their sizes are 0 or 1), and none per
shape. It is compiled on tensors of fixed sizes, not on those that happen to come first: compilers
choose the order of sums by the sizes that they see, and a resumed process, whose runs have other
sizes at first, must get the same numbers.
"""

from __future__ import annotations

import itertools
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils import _pytree as pytree

from learned_opt.rules.base import State, UpdateRule
from meta_train.inner.rule_step import Moved, rule_steps

SIZES = (32, 24, 3, 5)
"""Sizes of the axes of the tensors that a graph is compiled on, where they are not 0 or 1."""

_Key: TypeAlias = tuple[Any, ...]


def why_not_compiled() -> str | None:
    """Why `torch.compile` does not work on this machine, in one line; None if it does.

    It needs a C++ compiler. This compiles one small function, which takes some seconds.
    """
    try:
        _compile_on(_double, torch.ones(3))
    except RuntimeError as error:
        return _first_line(error)
    return None


def _double(value: Tensor) -> Tensor:
    return 2 * value


@final
class CompiledRule:
    """Takes the steps of many runs, each with weights of its own, as `rule_steps` does.

    What cannot be compiled, or has shapes that the rule branches on, runs uncompiled. That depends
    on the shapes alone, so a resumed run decides alike.

    Args:
        rule: the update rule.

    Warns:
        RuntimeWarning: the rule cannot be compiled; once.
    """

    def __init__(self, rule: UpdateRule) -> None:
        self.rule = rule
        self._graphs: dict[_Key, Callable[..., Moved] | None] = {}  # None: cannot be compiled
        self._unfit: set[_Key] = set()
        self._warned = False

    @property
    def graphs(self) -> int:
        """Number of graphs that were compiled."""
        return sum(graph is not None for graph in self._graphs.values())

    def __call__(
        self,
        weight_decay: float,
        gradients: list[Tensor],
        parameters: list[Tensor],
        states: list[State],
        loss: Tensor | None,
        lr: float | Tensor,
        total: Tensor | None,
        weights: Mapping[str, Tensor],
    ) -> Moved:
        """See `rule_steps`. No derivative is recorded."""
        given = weight_decay, gradients, parameters, states, loss, lr, total, dict(weights)
        shapes = tuple(value.shape for value in parameters)
        key: _Key = (
            tuple(
                (value.dtype, *(min(size, 2) for size in value.shape[1:])) for value in parameters
            ),
            *(len(parameters[0]), parameters[0].device, weight_decay, loss is None),
            *(_kind(lr), _kind(total)),
        )
        with torch.no_grad():
            if key not in self._graphs:
                self._graphs[key] = self._compile(given)
            graph = self._graphs[key]
            if graph is not None and (key, shapes) not in self._unfit:
                # Another layout in memory would be compiled anew.
                given = (
                    weight_decay,
                    [value.contiguous() for value in gradients],
                    [value.contiguous() for value in parameters],
                    [{key: value.contiguous() for key, value in state.items()} for state in states],
                    *(loss, lr, total, dict(weights)),
                )
                try:
                    with torch.compiler.set_stance("fail_on_recompile"):
                        return graph(*given)
                except RuntimeError:  # an error of the rule itself comes again, below
                    self._unfit.add((key, shapes))
            return rule_steps(self.rule, *given)

    def _compile(self, given: tuple[Any, ...]) -> Callable[..., Moved] | None:
        """Compile a graph for arguments like these, on tensors of fixed sizes."""
        try:
            return _compile_on(_own_function(self.rule), *_example(self.rule, *given))
        except RuntimeError as error:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"the step of {type(self.rule).__name__} is not compiled: {_first_line(error)}",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return None


def _compile_on(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """Compile a function for arguments of the kind of these, of any sizes but 0 and 1."""
    with warnings.catch_warnings(), _compiling():
        warnings.simplefilter("ignore")  # of torch about its own code
        compiled = torch.compile(function, dynamic=True, fullgraph=True)
        compiled(*arguments)
    return compiled


def _own_function(rule: UpdateRule) -> Callable[..., Moved]:
    """`rule_steps` as a function with code of its own: torch keeps compiled graphs by code."""

    def steps(*given: Any) -> Moved:
        return rule_steps(rule, *given)

    code = steps.__code__.replace(co_name=f"steps_{next(_numbers)}")
    return types.FunctionType(code, steps.__globals__, code.co_name, None, steps.__closure__)


_numbers = itertools.count()


def _example(
    rule: UpdateRule,
    weight_decay: float,
    gradients: list[Tensor],
    parameters: list[Tensor],
    states: list[State],
    loss: Tensor | None,
    lr: float | Tensor,
    total: Tensor | None,
    weights: Mapping[str, Tensor],
) -> tuple[Any, ...]:
    """Arguments of the same kind, of sizes that do not depend on the given ones."""
    made = [
        value.new_ones(
            (
                len(value),
                *(
                    size if size < 2 else SIZES[axis % len(SIZES)]
                    for axis, size in enumerate(value.shape[1:])
                ),
            )
        )
        for value in parameters
    ]
    begun = [vmap(rule.init_state)(value) for value in made]
    given = weight_decay, made, made, begun, loss, lr, total, dict(weights)
    example: tuple[Any, ...] = pytree.tree_map_only(
        Tensor, lambda value: torch.ones_like(value).contiguous(), given
    )
    return example


def _kind(value: float | Tensor | None) -> Any:
    """A number itself, as it becomes part of the graph; of a tensor its number of axes."""
    return ("axes", value.dim()) if isinstance(value, Tensor) else value


@contextmanager
def _compiling() -> Iterator[None]:
    """Settings of `torch.compile`: numbers are constants, and equal sizes may come to differ."""
    # Imported where used: it takes seconds.
    import torch._dynamo
    import torch.fx.experimental._config

    with (
        torch._dynamo.config.patch(specialize_float=True),
        torch.fx.experimental._config.patch(use_duck_shape=False),  # type: ignore[attr-defined]
    ):
        yield


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
