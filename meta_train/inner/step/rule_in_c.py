"""The step of a population of rules in C, in place: a ninth of the time of vmap.

There is code for one rule, step-size-lstm. One call steps the tensors of all runs, each run by
weights of its own, and reads each number once while it is in the cache.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.backends.c_steps.step_in_c import sizes
from learned_opt.backends.c_steps.step_size_lstm import STATE, constants, switches
from learned_opt.backends.plain_memory import is_plain
from learned_opt.c_library import addresses, call_c, missing_library, thread_count
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.step_size_lstm import StepSizeLSTM
from meta_train.inner.step.rule_step import StepInput, rule_steps

LEARNED = ("lstm.weight", "lstm.bias", "head.weight", "head.bias")
"""Weights of the rule in the order of C."""


def why_not_in_c(rule: UpdateRule) -> str | None:
    """Why C does not take the steps of populations of a rule, in one line; None if it does."""
    if type(rule) is not StepSizeLSTM:  # a subclass may have changed the equations
        return f"there is no code in C for populations of {type(rule).__name__}"
    if rule.dtype != torch.float32 or rule.device.type != "cpu":
        return f"C steps float32 on the CPU, not {rule.dtype} on {rule.device.type}"
    return missing_library()


@final
class RuleInC:
    """Takes the steps of many runs, each with weights of its own, as `rule_steps` does, in place.

    A run is written only if C is sure that all numbers will be finite; the rule itself steps the
    others, and runs whose tensors are not plain float32 memory of the CPU. That depends on the
    numbers alone, so a resumed run decides alike.

    Args:
        rule: the update rule.

    Raises:
        ValueError: C does not take its steps; see `why_not_in_c`.
    """

    def __init__(self, rule: UpdateRule) -> None:
        problem = why_not_in_c(rule)
        if problem is not None or not isinstance(rule, StepSizeLSTM):
            raise ValueError(problem)
        self.rule = rule
        self._known: _Tables | None = None

    def __call__(self, given: StepInput, moving: Tensor) -> None:
        """Write new parameters and states over those that are given. No derivative is recorded.

        Args:
            given: see `rule_steps`; the runs have weights of their own, and no two tensors share
                memory.
            moving: runs to step, `[runs]` bool; the others stay as they are.
        """
        with torch.no_grad():
            left = moving
            tables = self._tables(given)
            if tables is not None and given.total is not None and _fits_gradients(given):
                left = self._step_in_c(tables, given, moving)
            if bool(left.any()):
                self._step_by_rule(given, left.nonzero().squeeze(-1))

    def _tables(self, given: StepInput) -> _Tables | None:
        """Where parameters, states and weights lie; None if C cannot read and write them there.

        Steps in place meet the same tensors again, so this is found out once.
        """
        if self._known is None or not self._known.are_of(given):
            self._known = _find_tables(self.rule, given)
        return self._known

    def _step_in_c(self, tables: _Tables, given: StepInput, moving: Tensor) -> Tensor:
        """Step runs in C; return those that were to be stepped and were left, `[runs]` bool."""
        runs = len(moving)
        gradients = [value.contiguous() for value in given.gradients]  # alive until C returns
        untouched = np.zeros(runs, dtype=np.uint8)
        call_c(
            "step_size_population",
            runs,
            len(gradients),
            tables.sizes,
            np.concatenate([tables.parameters, addresses(gradients), tables.states]),
            tables.is_vector,
            moving.numpy().view(np.uint8),
            _numbers_of_runs(given, runs),
            untouched,
            tables.weights,
            constants(self.rule, 0.0, 0.0),
            switches(self.rule, has_loss=given.loss is not None),
            thread_count(runs * int(tables.sizes.sum())),
        )
        return torch.from_numpy(untouched).bool()

    def _step_by_rule(self, given: StepInput, rows: Tensor) -> None:
        """Step these runs by the rule itself, under `vmap`."""
        parameters, states = rule_steps(self.rule, _runs_of(given, rows))
        for own, new in zip(given.parameters, parameters, strict=True):
            own[rows] = new
        for state, moved in zip(given.states, states, strict=True):
            for key, value in moved.items():
                state[key][rows] = value


@dataclass(frozen=True)
class _Tables:
    """Where the tensors of a population lie, as C reads them, and the tensors, to keep them alive.

    Attributes:
        tensors: parameters, states and weights, as they were given.
        read: weights and settings of the features, contiguous.
        sizes: numbers of elements of a run's tensors, `[n]`.
        is_vector: 1 for at most one dimension, `[n]`.
        parameters: addresses, `[n]`.
        states: addresses, `[7 n]`.
        weights: addresses of `read`.
    """

    tensors: Sequence[Tensor]
    read: Sequence[Tensor]
    sizes: NDArray[np.int64]
    is_vector: NDArray[np.uint8]
    parameters: NDArray[np.uintp]
    states: NDArray[np.uintp]
    weights: NDArray[np.uintp]

    def are_of(self, given: StepInput) -> bool:
        """Whether these are the tensors of another step."""
        others = _kept(given)
        return len(others) == len(self.tensors) and all(map(operator.is_, others, self.tensors))


def _kept(given: StepInput) -> list[Tensor]:
    """The tensors that lie where they are from step to step."""
    states = [value for state in given.states for value in state.values()]
    return [*given.parameters, *states, *(given.weights or {}).values()]


def _find_tables(rule: StepSizeLSTM, given: StepInput) -> _Tables | None:
    """See `RuleInC._tables`."""
    own, weights = dict(rule.named_parameters()), given.weights or {}
    runs, units = len(given.parameters[0]), rule.hidden_size
    small = {"step": (runs,), "h": (runs, units), "c": (runs, units), "scalars": (runs, 8)}
    written = [
        (state[key], small.get(key, tuple(parameter.shape)))
        for key in STATE
        for parameter, state in zip(given.parameters, given.states, strict=True)
    ]
    learned = [(weights[name], (runs, *own[name].shape)) for name in LEARNED]
    if not all(is_plain(value) for value in given.parameters) or not all(
        is_plain(value) and value.shape == shape for value, shape in (*written, *learned)
    ):
        return None
    read = [*(value for value, _ in learned), rule.feature_shift, rule.feature_scale]
    of_run = [value[0] for value in given.parameters]
    return _Tables(
        tensors=_kept(given),
        read=read,
        sizes=sizes(of_run),
        is_vector=np.array([value.dim() <= 1 for value in of_run], dtype=np.uint8),
        parameters=addresses(given.parameters),
        states=addresses([value for value, _ in written]),
        weights=addresses(read),
    )


def _fits_gradients(given: StepInput) -> bool:
    """Whether C can read the gradients once they are contiguous."""
    return all(
        gradient.dtype == torch.float32 and gradient.is_cpu and gradient.shape == parameter.shape
        for gradient, parameter in zip(given.gradients, given.parameters, strict=True)
    )


def _numbers_of_runs(given: StepInput, runs: int) -> NDArray[np.float64]:
    """Loss, planned number of steps, learning rate and weight decay of each run, `[runs, 4]`."""
    columns: Sequence[float | Tensor | None] = (
        given.loss,
        given.total,
        given.lr,
        given.weight_decay,
    )
    numbers = np.zeros((runs, len(columns)))
    for k, value in enumerate(columns):
        if value is not None:
            numbers[:, k] = value.numpy() if isinstance(value, Tensor) else value
    return numbers


def _runs_of(given: StepInput, rows: Tensor) -> StepInput:
    """The input of a step, for some of the runs."""

    def some(value: Tensor) -> Tensor:
        return value[rows] if value.dim() else value

    lr, total, loss = given.lr, given.total, given.loss
    return replace(
        given,
        gradients=[value[rows] for value in given.gradients],
        parameters=[value[rows] for value in given.parameters],
        states=[{key: value[rows] for key, value in state.items()} for state in given.states],
        loss=None if loss is None else some(loss),
        lr=some(lr) if isinstance(lr, Tensor) else lr,
        total=None if total is None else some(total),
        weights={name: value[rows] for name, value in (given.weights or {}).items()},
    )
