"""The base class of rules that treat every coordinate of a tensor alike and alone."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from learned_opt.rules.base import Context, Gates, State, UpdateRule, cast_state

LARGE = 4096
"""Fewest coordinates of a tensor that gets a call of its own."""


class CoordinateRule(UpdateRule):
    """Abstract: a rule that treats every coordinate alike and alone.

    A subclass declares its state in `coordinate_state` and implements `update_coordinates` on flat
    arrays. This class concatenates the coordinates of all small tensors into one array (few large
    operations instead of many small ones), and splits the result.

    **Idle coordinates do not move.** A coordinate whose gradient is zero and whose state is still
    zero keeps its value and its state: a dead unit, a black pixel, the zero-gradient step by which
    torch.distributed.checkpoint makes optimizer state. A rule that would move such coordinates
    names in `idle_key` the state tensor that tells: it is zero only before the first gradient.

    Examples:
        >>> class Signum(CoordinateRule):
        ...     default_lr = 1e-3
        ...     def coordinate_state(self):
        ...         return {"m": ()}
        ...     def update_coordinates(self, gradient, parameter, state, context, gates=None):
        ...         m = 0.9 * state["m"] + 0.1 * gradient
        ...         return -m.sign(), {"m": m}
        >>> optimizer = LearnedOptimizer(model.parameters(), rule=Signum())
    """

    idle_key: ClassVar[str | None] = None
    """The state tensor that is all zero only while the coordinate is idle; see the class."""

    def held_state(self) -> frozenset[str]:
        """State that `update_coordinates` itself leaves at zero where `state["idle"]` is true.

        A rule that can do so at less cost names it here: to zero a state is a pass over its memory,
        and another in the derivative. By default this class does it for all state.
        """
        return frozenset()

    @abstractmethod
    def coordinate_state(self) -> dict[str, tuple[int, ...]]:
        """The state per coordinate: names and trailing shapes, such as `{"h": (20,), "m": ()}`."""

    @abstractmethod
    def update_coordinates(
        self,
        gradient: Tensor,
        parameter: Tensor,
        state: State,
        context: Context,
        gates: Gates | None = None,
    ) -> tuple[Tensor, State]:
        """Step `N` coordinates.

        Args:
            gradient: `[N]`.
            parameter: `[N]`.
            state: per coordinate, `[N, *trailing]`; `step` is `[N]` and counts from 1. In a step
                of a rule with an `idle_key`, `idle`, `[N]` bool, says which coordinates are idle.
            context: see `Context`; the loss is 0-dim or `[N]`.
            gates: if given, the rule writes its gate values into it, `[N]` or `[N, H]`.

        Returns:
            The delta, `[N]`, and the new state without `step`.
        """

    def init_tensor_state(self, parameter: Tensor) -> State:
        """Zeros of shape `[*param, *trailing]` for every tensor of `coordinate_state`.

        In memory they lie unit by unit, as `[*trailing, *param]`, so that operations over
        coordinates run through memory in order.
        """
        return {
            key: unit_major(
                torch.zeros(
                    (*parameter.shape, *trailing), dtype=self.dtype, device=parameter.device
                ),
                parameter.dim(),
            )
            for key, trailing in self.coordinate_state().items()
        }

    def state_bytes_per_parameter(self) -> int:
        """Bytes of state per coordinate; the 0-dim `step` of each tensor comes on top."""
        elements = sum(math.prod(trailing) for trailing in self.coordinate_state().values())
        return elements * self.dtype.itemsize

    def update(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context,
    ) -> tuple[list[Tensor], list[State]]:
        """Flatten, step many coordinates at once, hold the idle ones, split.

        Large tensors are stepped one by one, all small ones together: to join and split a large
        one costs more than a call.

        Several runs can share one call without `vmap`: give `step` (and the loss, and the planned
        number of steps) leading axes, `[*runs]`, and the tensors the same, `[*runs, *param]`.
        """
        small = [k for k, tensor in enumerate(gradients) if tensor.numel() < LARGE]
        large = [[k] for k, tensor in enumerate(gradients) if tensor.numel() >= LARGE]
        results: dict[int, tuple[Tensor, State]] = {}
        for group in [small, *large] if small else large:
            deltas, new_states = self._update_joined(
                [gradients[k] for k in group],
                [parameters[k] for k in group],
                [states[k] for k in group],
                context,
            )
            results.update(zip(group, zip(deltas, new_states, strict=True), strict=True))
        ordered = [results[k] for k in range(len(gradients))]
        return [delta for delta, _ in ordered], [state for _, state in ordered]

    def _update_joined(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context,
    ) -> tuple[list[Tensor], list[State]]:
        context = Context(
            loss=_by_coordinate(context.loss, gradients),
            total_steps=_by_coordinate(context.total_steps, gradients),
        )
        gradient = _join([tensor.reshape(-1) for tensor in gradients])
        parameter = _join([tensor.reshape(-1) for tensor in parameters])
        state = self._flatten(gradients, states)
        if self.idle_key is None:
            delta, new_state = self.update_coordinates(gradient, parameter, state, context)
        else:
            idle = (gradient == 0) & _all_zero(state[self.idle_key])
            given = {**state, "idle": idle}
            delta, new_state = self.update_coordinates(gradient, parameter, given, context)
            delta = delta.masked_fill(idle, 0)
            # The state of an idle coordinate is all zero: to zero it is to keep it.
            held = self.held_state()
            new_state = {
                key: value if key in held else _zero_where(idle, value)
                for key, value in new_state.items()
            }

        deltas = [
            part.reshape(tensor.shape)
            for part, tensor in zip(_split(delta, gradients), gradients, strict=True)
        ]
        new_states: list[State] = [{"step": state["step"]} for state in states]
        for key, trailing in self.coordinate_state().items():
            parts = _split(new_state[key], gradients)
            for target, part, tensor in zip(new_states, parts, gradients, strict=True):
                target[key] = part.reshape((*tensor.shape, *trailing))
        return deltas, new_states

    def gates(
        self, gradient: Tensor, parameter: Tensor, state: State, context: Context | None = None
    ) -> Gates:
        """Gate values of the step from `state`: `[*param]` or `[*param, H]` by name."""
        if self.dtype != self.wide_dtype:
            wide = copy.deepcopy(self).to(self.wide_dtype)
            return wide.gates(gradient, parameter, cast_state(state, self.wide_dtype), context)
        recorded: Gates = {}
        gradient = gradient.to(self.dtype)
        advanced = {**state, "step": state["step"] + 1}
        self.update_coordinates(
            gradient.reshape(-1),
            parameter.to(self.dtype).reshape(-1),
            self._flatten([gradient], [advanced]),
            context or Context(),
            gates=recorded,
        )
        shape = gradient.shape
        return {key: value.reshape((*shape, *value.shape[1:])) for key, value in recorded.items()}

    def _flatten(self, tensors: Sequence[Tensor], states: Sequence[State]) -> State:
        """Join states per coordinate; the step of each tensor is repeated over its coordinates."""
        flat = {
            key: _join_units([state[key] for state in states], len(trailing))
            for key, trailing in self.coordinate_state().items()
        }
        steps = [
            _per_coordinate(state["step"], tensor)
            for state, tensor in zip(states, tensors, strict=True)
        ]
        return {"step": _join(steps), **flat}


def unit_major(value: Tensor, dims: int) -> Tensor:
    """The tensor `[*param, *trailing]`, laid out in memory as `[*trailing, *param]`.

    Args:
        value: any strides; returned as it is where they are these.
        dims: dimensions of the parameter.
    """
    order = [*range(dims, value.dim()), *range(dims)]
    back = [*range(value.dim() - dims, value.dim()), *range(value.dim() - dims)]
    return value.permute(order).contiguous().permute(back)


def _by_coordinate(value: Tensor | None, tensors: Sequence[Tensor]) -> Tensor | None:
    """A value per run as one per coordinate, `[N]`; a value for all runs stays 0-dim."""
    if value is None or not value.dim():
        return value
    return _join([_per_coordinate(value, tensor) for tensor in tensors])


def _per_coordinate(value: Tensor, tensor: Tensor) -> Tensor:
    """Repeat a value per run, `[*runs]`, over the coordinates of `[*runs, *param]`: `[N]`."""
    ones = [1] * (tensor.dim() - value.dim())
    return value.reshape((*value.shape, *ones)).expand(tensor.shape).reshape(-1)


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _split(value: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Split the coordinates, `[N, *trailing]`, into those of each tensor."""
    # The derivative of a split copies its parts, even a single one.
    return [value] if len(tensors) == 1 else value.split([tensor.numel() for tensor in tensors])


def _join_units(parts: Sequence[Tensor], trailing: int) -> Tensor:
    """Join states `[*param, *trailing]` to `[N, *trailing]`, unit by unit in memory."""
    if not trailing:
        return _join([part.reshape(-1) for part in parts])
    units = range(-trailing, 0)
    first = [part.movedim(tuple(units), tuple(range(trailing))) for part in parts]
    flat = [part.reshape(*part.shape[:trailing], -1) for part in first]
    return (flat[0] if len(flat) == 1 else torch.cat(flat, dim=-1)).movedim(-1, 0)


def _all_zero(state: Tensor) -> Tensor:
    """Which coordinates, `[N]`, have only zeros in a state `[N, *trailing]`."""
    # `any` of the numbers themselves: to compare them first takes four times as long.
    return ~state.flatten(1).any(-1) if state.dim() > 1 else state == 0


def _zero_where(mask: Tensor, value: Tensor) -> Tensor:
    """A state `[N, *trailing]` with zeros where the mask, `[N]`, is true."""
    # With the coordinates last: masked_fill makes the memory of its result contiguous.
    return value.movedim(0, -1).masked_fill(mask, 0).movedim(-1, 0)
