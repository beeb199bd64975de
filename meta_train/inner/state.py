"""The state of inner training: of one run, or of many along a leading axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from learned_opt.rules.base import State, UpdateRule
from meta_train.tasks.base import Batch, Problem, Tensors


@dataclass(frozen=True)
class InnerState:
    """Everything that an inner step changes; with a leading axis of runs if vectorised.

    Attributes:
        parameters: by name.
        buffers: by name.
        states: the rule's state for each parameter, by name.
        alive: 0-dim or `[runs]`, bool; False from the step on at which a run diverged.
        first_loss: the loss at the first step; NaN before it.
        teacher: the state of the imitated rule, by name; empty without one.
        fixed: parameters that the loss reads and inner training does not change; see `Problem`.
    """

    parameters: Tensors
    buffers: Tensors
    states: dict[str, State]
    alive: Tensor
    first_loss: Tensor
    teacher: dict[str, State] = field(default_factory=dict)
    fixed: Tensors = field(default_factory=dict)

    def detach(self) -> InnerState:
        """Return the same values without history, as at the end of a truncation window."""
        return map_states(lambda tensor: tensor.detach(), self)

    def cast(self, dtype: torch.dtype | None) -> InnerState:
        """Convert the problem's floating-point tensors to `dtype`, not the rule's state."""
        return replace(
            self,
            parameters=cast(self.parameters, dtype),
            buffers=cast(self.buffers, dtype),
            first_loss=cast(self.first_loss, dtype),
            fixed=cast(self.fixed, dtype),
        )

    def named_tensors(self) -> list[tuple[str, Tensor]]:
        """Return all tensors with unique names, in a fixed order."""
        named = [(f"parameters/{key}", value) for key, value in self.parameters.items()]
        named += [(f"buffers/{key}", value) for key, value in self.buffers.items()]
        named += [(f"fixed/{key}", value) for key, value in self.fixed.items()]
        for part, states in (("states", self.states), ("teacher", self.teacher)):
            for key, state in states.items():
                named += [(f"{part}/{key}/{name}", state[name]) for name in sorted(state)]
        return [*named, ("alive", self.alive), ("first_loss", self.first_loss)]

    def with_tensors(self, named: dict[str, Tensor]) -> InnerState:
        """Return the same structure with other tensors, by the names of `named_tensors`."""

        def states(part: str, old: dict[str, State]) -> dict[str, State]:
            return {
                key: {name: named[f"{part}/{key}/{name}"] for name in state}
                for key, state in old.items()
            }

        return InnerState(
            parameters={key: named[f"parameters/{key}"] for key in self.parameters},
            buffers={key: named[f"buffers/{key}"] for key in self.buffers},
            states=states("states", self.states),
            alive=named["alive"],
            first_loss=named["first_loss"],
            teacher=states("teacher", self.teacher),
            fixed={key: named[f"fixed/{key}"] for key in self.fixed},
        )


def start(
    rule: UpdateRule,
    problems: Sequence[Problem],
    *,
    vectorize: bool,
    teacher: UpdateRule | None = None,
) -> InnerState:
    """Return the state before the first step of one problem, or of several at once.

    Args:
        rule: the update rule; makes its own state.
        problems: one problem, or several of one task if vectorised.
        vectorize: give every tensor a leading axis of runs.
        teacher: a rule to imitate.

    Raises:
        ValueError: several problems without `vectorize`, or ones that cannot run together.
    """
    if not vectorize:
        if len(problems) != 1:
            raise ValueError(f"{len(problems)} problems at once need vectorize=True")
        return _start_one(rule, problems[0], teacher)
    if any(problem.loss != problems[0].loss for problem in problems):
        raise ValueError("problems of different tasks cannot run at once: their losses differ")
    return _start_together(rule, problems, teacher)


def check_alike(problem: Problem, first: Problem) -> None:
    """Check that the tensors of a problem have the names and shapes of another one's of its task.

    Else a smaller tensor would be broadcast into the place of a larger one, in silence.

    Raises:
        ValueError: they have not; the message names the tensor.
    """
    kinds = ("parameter", "buffer", "fixed parameter")
    pairs = (
        (problem.parameters, problem.buffers, problem.fixed),
        (
            first.parameters,
            first.buffers,
            first.fixed,
        ),
    )
    for kind, new, old in zip(kinds, *pairs, strict=True):
        for name in {**old, **new}:
            was, now = (list(t[name].shape) if name in t else "missing" for t in (old, new))
            if was != now:
                raise ValueError(
                    f"all problems of a task must have the same tensors: {kind} {name} is {now} "
                    f"in one and {was} in another. Make them several tasks, in a TaskFamily"
                )


def _start_together(
    rule: UpdateRule, problems: Sequence[Problem], teacher: UpdateRule | None
) -> InnerState:
    """Equal a stack of single starts; a tensor that all problems share is stored once."""
    count = len(problems)

    def together(tensors: Sequence[Tensor]) -> Tensor:
        if all(tensor is tensors[0] for tensor in tensors):
            return tensors[0].expand(count, *tensors[0].shape)
        return torch.stack(list(tensors))

    def by_name(trees: Sequence[Tensors]) -> Tensors:
        return {key: together([tree[key] for tree in trees]) for key in trees[0]}

    def states_of(rule: UpdateRule) -> dict[str, State]:
        found = {}
        for name, first in problems[0].parameters.items():
            values = [problem.parameters[name] for problem in problems]
            alike = all(value is first for value in values)
            begun = [rule.init_state(value) for value in (values[:1] if alike else values)]
            found[name] = by_name(begun * count if alike else begun)
        return found

    begin = _start_one(rule, problems[0], teacher)
    return InnerState(
        parameters=by_name([problem.parameters for problem in problems]),
        buffers=by_name([problem.buffers for problem in problems]),
        states=states_of(rule),
        alive=begin.alive.expand(count),
        first_loss=begin.first_loss.expand(count),
        teacher={} if teacher is None else states_of(teacher),
        fixed=by_name([problem.fixed for problem in problems]),
    )


def _start_one(rule: UpdateRule, problem: Problem, teacher: UpdateRule | None) -> InnerState:
    first = next(iter(problem.parameters.values()))
    parameters = problem.parameters.items()
    return InnerState(
        parameters=dict(problem.parameters),
        buffers=dict(problem.buffers),
        states={name: rule.init_state(value) for name, value in parameters},
        alive=torch.ones((), dtype=torch.bool, device=first.device),
        # float32 for any problem and default: losses are only compared with it.
        first_loss=torch.full((), torch.nan, dtype=torch.float32, device=first.device),
        teacher={} if teacher is None else {k: teacher.init_state(v) for k, v in parameters},
        fixed=dict(problem.fixed),
    )


def stack_states(states: Sequence[InnerState]) -> InnerState:
    """Stack the states of single runs along a new leading axis."""
    return map_states(lambda *tensors: torch.stack(tensors), *states)


def stack(trees: Sequence[Batch]) -> Batch:
    """Stack batches of equal structure along a new leading axis."""
    return pytree.tree_map(lambda *tensors: torch.stack(tensors), *trees)


def map_states(function: Callable[..., Tensor], *states: InnerState) -> InnerState:
    """Apply a function to every tensor of a state, or of several states side by side."""
    values: list[Any] = [
        pytree.tree_map(function, *(getattr(state, one.name) for state in states))
        for one in fields(InnerState)
    ]
    return InnerState(*values)


def own_copy(tensor: Tensor) -> Tensor:
    """Copy a tensor so that every row has memory of its own."""
    return tensor.clone(memory_format=torch.contiguous_format)


def cast(tree: Batch, dtype: torch.dtype | None) -> Batch:
    """Convert the floating-point tensors of a tree to `dtype`; None leaves them alone."""
    if dtype is None:
        return tree
    return pytree.tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, tree)
