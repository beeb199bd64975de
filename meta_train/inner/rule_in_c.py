"""The step of a population of rules in C, in place: a tenth of the time of vmap.

There is code for one rule, step-size-lstm. One call steps the tensors of all runs, each run by
weights of its own, and reads each number once while it is in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.backends.plain_memory import is_plain
from learned_opt.backends.step_in_c import sizes
from learned_opt.backends.step_size_in_c import STATE, constants, switches
from learned_opt.c_library import addresses, call_c, missing_library, thread_count
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.step_size_lstm import StepSizeLSTM
from meta_train.inner.rule_step import StepInput, rule_steps

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

    def __call__(self, given: StepInput, moving: Tensor) -> None:
        """Write new parameters and states over those that are given. No derivative is recorded.

        Args:
            given: see `rule_steps`; the runs have weights of their own, and no two tensors share
                memory.
            moving: runs to step, `[runs]` bool; the others stay as they are.
        """
        with torch.no_grad():
            left = moving
            if given.total is not None and self._fits(given, len(moving)):
                left = self._step_in_c(given, moving)
            if bool(left.any()):
                self._step_by_rule(given, left.nonzero().squeeze(-1))

    def _fits(self, given: StepInput, runs: int) -> bool:
        """Whether C can read and write the tensors where they are."""
        units, weights = self.rule.hidden_size, given.weights or {}
        small = {"step": (runs,), "h": (runs, units), "c": (runs, units), "scalars": (runs, 8)}
        written = [
            (state[key], small.get(key, parameter.shape))
            for parameter, state in zip(given.parameters, given.states, strict=True)
            for key in STATE
        ]
        own = dict(self.rule.named_parameters())
        read = [
            *zip(given.gradients, (value.shape for value in given.parameters), strict=True),
            *((weights[name], (runs, *own[name].shape)) for name in LEARNED),
        ]
        return (
            all(map(is_plain, given.parameters))
            and all(is_plain(value) and value.shape == shape for value, shape in written)
            and all(
                value.dtype == torch.float32 and value.is_cpu and value.shape == shape
                for value, shape in read
            )
        )

    def _step_in_c(self, given: StepInput, moving: Tensor) -> Tensor:
        """Step runs in C; return those that were to be stepped and were left, `[runs]` bool."""
        rule, runs = self.rule, len(moving)
        weights = [(given.weights or {})[name].contiguous() for name in LEARNED]
        tables = [*weights, rule.feature_shift, rule.feature_scale]  # alive until C returns
        gradients = [value.contiguous() for value in given.gradients]
        states = [[state[key] for state in given.states] for key in STATE]
        of_run = [value[0] for value in given.parameters]
        elements = sizes(of_run)
        untouched = np.zeros(runs, dtype=np.uint8)
        call_c(
            "step_size_population",
            runs,
            len(of_run),
            elements,
            np.concatenate([addresses(row) for row in (given.parameters, gradients, *states)]),
            np.array([value.dim() <= 1 for value in of_run], dtype=np.uint8),
            moving.numpy().view(np.uint8),
            _numbers_of_runs(given, runs),
            untouched,
            addresses(tables),
            constants(rule, 0.0, 0.0),
            switches(rule, has_loss=given.loss is not None),
            thread_count(runs * int(elements.sum())),
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
    """What the step of some runs reads."""

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
