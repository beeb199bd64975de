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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils import _pytree as pytree

from learned_opt.rules.base import UpdateRule
from meta_train.inner.step.rule_step import Moved, StepInput, rule_steps
from meta_train.runtime.progress import say

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
        verbose: print a line before each graph is compiled.

    Warns:
        RuntimeWarning: the rule cannot be compiled; once.
    """

    def __init__(self, rule: UpdateRule, *, verbose: bool = False) -> None:
        self.rule = rule
        self.verbose = verbose
        self._graphs: dict[_Key, Callable[..., Moved] | None] = {}  # None: cannot be compiled
        self._unfit: set[_Key] = set()
        self._warned = False

    @property
    def graphs(self) -> int:
        """Number of graphs that were compiled."""
        return sum(graph is not None for graph in self._graphs.values())

    def __call__(self, given: StepInput) -> Moved:
        """See `rule_steps`; the runs have weights of their own. No derivative is recorded."""
        shapes = tuple(value.shape for value in given.parameters)
        key: _Key = (
            tuple(
                (value.dtype, *(min(size, 2) for size in value.shape[1:]))
                for value in given.parameters
            ),
            *(len(given.parameters[0]), given.parameters[0].device),
            *(given.weight_decay, given.loss is None, _kind(given.lr), _kind(given.total)),
        )
        with torch.no_grad():
            if key not in self._graphs:
                self._graphs[key] = self._compile(given)
            graph = self._graphs[key]
            if graph is not None and (key, shapes) not in self._unfit:
                try:
                    with torch.compiler.set_stance("fail_on_recompile"):
                        # Another layout in memory would be compiled anew.
                        return graph(*_contiguous(given).of_runs())
                except RuntimeError:  # an error of the rule itself comes again, below
                    self._unfit.add((key, shapes))
            return rule_steps(self.rule, given)

    def _compile(self, given: StepInput) -> Callable[..., Moved] | None:
        """Compile a graph for arguments like these, on tensors of fixed sizes."""
        if self.verbose:
            name, number = type(self.rule).__name__, len(given.parameters)
            tensors = "1 tensor" if number == 1 else f"{number} tensors"
            say(f"compiling the step of {name} for {tensors}: this can take a minute")
        function = _own_function(self.rule, given.weight_decay)
        try:
            return _compile_on(function, *_example(self.rule, given).of_runs())
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


def _own_function(rule: UpdateRule, weight_decay: float) -> Callable[..., Moved]:
    """`rule_steps` as a function with code of its own: torch keeps compiled graphs by code."""

    def steps(*of_runs: Any) -> Moved:
        return rule_steps(rule, StepInput(weight_decay, *of_runs))

    code = steps.__code__.replace(co_name=f"steps_{next(_numbers)}")
    return types.FunctionType(code, steps.__globals__, code.co_name, None, steps.__closure__)


_numbers = itertools.count()


def _contiguous(given: StepInput) -> StepInput:
    """The same numbers, each tensor contiguous in memory."""
    return replace(
        given,
        gradients=[value.contiguous() for value in given.gradients],
        parameters=[value.contiguous() for value in given.parameters],
        states=[
            {key: value.contiguous() for key, value in state.items()} for state in given.states
        ],
        weights=dict(given.weights or {}),
    )


def _example(rule: UpdateRule, given: StepInput) -> StepInput:
    """Arguments of the same kind, of sizes that do not depend on the given ones."""

    def ones(tree: Any) -> Any:
        return pytree.tree_map_only(Tensor, lambda t: torch.ones_like(t).contiguous(), tree)

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
        for value in given.parameters
    ]
    return StepInput(
        given.weight_decay,
        made,
        ones(made),
        ones([vmap(rule.init_state)(value) for value in made]),
        *(ones(given.loss), ones(given.lr), ones(given.total)),
        ones(dict(given.weights or {})),
    )


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
