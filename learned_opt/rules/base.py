"""The contract of update rules, and a base class for rules that treat coordinates alone.

An update rule is a pure, differentiable function

    (gradients, parameters, states, context) -> (deltas, new states)

over the whole list of parameter tensors, as in optax. It changes nothing in place, copies nothing
to the host and takes no branch that depends on a value, so the same code runs under autograd,
`torch.func.vmap`, `torch.compile` and a plain loop. The drivers (`learned_opt.functional` for the
differentiable ones, `learned_opt.optimizer` for the in-place one) do the rest:
`parameter + lr * delta`, weight decay, `maximize`, chunks.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from learned_opt.rules.whole_tensors import WholeTensors

State: TypeAlias = dict[str, Tensor]
"""The state of one parameter tensor: `step` (0-dim) and tensors of shape `[*param, *trailing]`."""

Gates: TypeAlias = dict[str, Tensor]
"""Gate values in [0, 1] by name: `[*param]` or `[*param, H]`; size 1 where coordinates share."""


@dataclass(frozen=True)
class Context:
    """Inputs of a rule besides gradients, parameters and its own state.

    Attributes:
        loss: the inner loss at `parameters`, 0-dim and detached, or None if unknown.
        total_steps: the planned number of steps, 0-dim, or None if unknown.
        tensors: answers about whole tensors, where the rule is given parts of sharded ones; None if
            all are whole.
    """

    loss: Tensor | None = None
    total_steps: Tensor | None = None
    tensors: WholeTensors | None = None

    def missing(self, fields: Iterable[str]) -> list[str]:
        """The fields, of those given, that are None."""
        present = {"loss": self.loss is not None, "total_steps": self.total_steps is not None}
        return sorted(field for field in fields if not present[field])


class UpdateRule(nn.Module, ABC):
    """Abstract: one step of optimisation, as a module whose weights are the meta-parameters.

    A subclass implements `init_tensor_state` and `update`. This class counts steps: every state
    carries `step`, the number of steps that its tensor has taken (0-dim, in `wide_dtype`).

    Args:
        **settings: the arguments that the rule was built with, kept for saving and comparing.
            Numbers are kept as Python's, whatever their type.

    Example:
        >>> class SignDescent(UpdateRule):
        ...     default_lr = 1e-3
        ...     def init_tensor_state(self, parameter):
        ...         return {}
        ...     def update(self, gradients, parameters, states, context):
        ...         return [-gradient.sign() for gradient in gradients], list(states)
        >>> optimizer = LearnedOptimizer(model.parameters(), rule=SignDescent())
    """

    default_lr: ClassVar[float] = 1.0
    """The factor on `delta` where the user gives no `lr`."""

    second_order: ClassVar[bool] = False
    """Whether meta-training takes second derivatives of the inner loss by default."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Fields of `Context` that the rule needs."""

    uses: ClassVar[frozenset[str]] = frozenset()
    """Fields of `Context` that the rule reads where they are given, and does without otherwise."""

    added_state: ClassVar[frozenset[str]] = frozenset()
    """State tensors that checkpoints of earlier versions lack; loaded from those, they are new."""

    directions: ClassVar[tuple[str, ...]] = ()
    """Values of the option `direction` that a parameter group may have; None is the rule's own."""

    takes_parts: ClassVar[bool] = False
    """Whether a rule that steps whole tensors asks `Context.tensors` for all that it needs of them,
    so that it can be given parts of sharded ones. A `CoordinateRule` needs nothing of them."""

    tensor_state: ClassVar[frozenset[str]] = frozenset()
    """State tensors that hold numbers of the whole tensor, equal on all processes that share it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = {key: plain(value) for key, value in settings.items()}
        self._anchor: Tensor
        # An empty tensor, so that `.to(device, dtype)` reaches rules without weights, too.
        self.register_buffer("_anchor", torch.empty(0, dtype=torch.float32), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and of state per coordinate (float32 unless the rule was cast).

        A rule that is cast to bfloat16 or float16 only stores them so: it computes in `wide_dtype`.
        In float16 the squares of gradients below 1e-2 underflow, so bfloat16 is the better choice.
        """
        return self._anchor.dtype

    @property
    def wide_dtype(self) -> torch.dtype:
        """The dtype of arithmetic, and of state that is not per coordinate: at least float32.

        In bfloat16 a count of steps would stop at 256, in float16 at 2048.
        """
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def device(self) -> torch.device:
        """The device of the rule's weights."""
        return self._anchor.device

    def required_context(self) -> frozenset[str]:
        """The fields of `Context` that the rule needs with its settings."""
        return self.needs

    def read_context(self) -> frozenset[str]:
        """The fields of `Context` that the rule reads, needed or not."""
        return self.required_context() | self.uses

    def check_context(self, context: Context) -> None:
        """Check that a context has what the rule needs.

        Raises:
            ValueError: it lacks a field; the message says how to give it.
        """
        for field in context.missing(self.required_context()):
            raise ValueError(f"rule {type(self).__name__} needs {_HOW_TO_GIVE[field]}")

    def init_state(
        self,
        parameter: Tensor,
        shape: Sequence[int] | None = None,
        direction: str | None = None,
    ) -> State:
        """Make the state of a tensor that has taken no step, on the parameter's device.

        Args:
            parameter: the tensor, or the part of a sharded one that this process holds.
            shape: of the whole tensor, if `parameter` is a part.
            direction: one of `directions`, or None.
        """
        step = torch.zeros((), dtype=self.wide_dtype, device=parameter.device)
        whole = parameter.shape if shape is None else shape
        return {"step": step, **self.init_part_state(parameter, whole, direction)}

    def init_part_state(
        self, parameter: Tensor, shape: Sequence[int], direction: str | None
    ) -> State:
        """Make the rule's own state of a tensor; for rules with `takes_parts` or `directions`.

        `parameter` may be a part of a tensor of `shape`.
        """
        return self.init_tensor_state(parameter)

    @abstractmethod
    def init_tensor_state(self, parameter: Tensor) -> State:
        """Make the rule's own state of a tensor that has taken no step, without `step`."""

    def forward(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context | None = None,
    ) -> tuple[list[Tensor], list[State]]:
        """Compute one step for a list of tensors.

        Args:
            gradients: real tensors, `[*param]` each.
            parameters: tensors of the same shapes.
            states: as `init_state` makes them and this function returns them.
            context: loss and planned number of steps; see `required_context`.

        Returns:
            The deltas, `[*param]` each in `wide_dtype`, and the new states. A driver multiplies
            the deltas by `lr` and adds them to the parameters.

        Raises:
            ValueError: the context lacks a field that the rule needs.
        """
        if self.dtype != self.wide_dtype:
            return self._forward_widely(gradients, parameters, states, context)
        context = context or Context()
        self.check_context(context)
        advanced = [{**state, "step": state["step"] + 1} for state in states]
        return self.update(
            [gradient.to(self.dtype) for gradient in gradients],
            [parameter.to(self.dtype) for parameter in parameters],
            advanced,
            context,
        )

    def _forward_widely(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context | None,
    ) -> tuple[list[Tensor], list[State]]:
        """Compute in `wide_dtype`; the new states have the dtypes of the old ones."""
        weights = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        wide = {key: _cast(value, self.wide_dtype) for key, value in weights.items()}
        wide_states = [cast_state(state, self.wide_dtype) for state in states]
        deltas, new_states = functional_call(
            self, wide, (gradients, parameters, wide_states, context)
        )
        kept = [
            {key: value.to(state[key].dtype) for key, value in new.items()}
            for state, new in zip(states, new_states, strict=True)
        ]
        return deltas, kept

    @abstractmethod
    def update(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context,
    ) -> tuple[list[Tensor], list[State]]:
        """Compute deltas and new states; `step` counts from 1 and is already advanced."""

    def decay_factor(self, state: State, context: Context) -> float | Tensor:
        """The factor on the weight decay at the step that led to `state`, 0-dim; by default 1.

        A rule with its own schedule gives the schedule, as AdamW's weight decay follows that of
        its learning rate.
        """
        return 1.0

    averages: ClassVar[bool] = False
    """Whether the model is to be evaluated elsewhere than at the parameters it trains on."""

    def evaluation_point(self, parameter: Tensor, state: State) -> tuple[Tensor, State]:
        """Give the value of a parameter to evaluate the model at; by default the parameter itself.

        Args:
            parameter: as it is after the last step, `[*param]`.
            state: of that tensor.

        Returns:
            The value, `[*param]`, and the state, in which an average may hold the parameter now.
        """
        return parameter, state

    def gates(
        self, gradient: Tensor, parameter: Tensor, state: State, context: Context | None = None
    ) -> Gates:
        """Compute the gates of the step from `state`; empty if the rule has none."""
        return {}

    def extra_repr(self) -> str:
        """Show the settings, as `torch.nn` modules do."""
        return ", ".join(f"{key}={value!r}" for key, value in self.settings.items())


def cast_state(state: State, dtype: torch.dtype) -> State:
    """A state with its floating-point tensors in another dtype."""
    return {key: _cast(value, dtype) for key, value in state.items()}


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def plain(value: Any) -> Any:
    """A number of NumPy or PyTorch as Python's; in lists and tuples, too."""
    if isinstance(value, (np.generic, np.ndarray, Tensor)):
        return value.item() if value.ndim == 0 else value.tolist()
    if isinstance(value, (list, tuple)):
        return type(value)(plain(part) for part in value)
    return value


_HOW_TO_GIVE: Mapping[str, str] = {
    "loss": "the loss: call step(closure) with a closure that returns it "
    "(after a usual backward pass, step(lambda: loss) is enough)",
    "total_steps": "total_steps, the planned number of optimizer steps: "
    "LearnedOptimizer(model.parameters(), rule=..., total_steps=epochs * len(loader))",
}


LARGE = 4096
"""Coordinates of a tensor that is worth a call of its own."""


class CoordinateRule(UpdateRule):
    """Abstract: a rule that treats every coordinate alike and alone.

    A subclass declares its state in `coordinate_state` and implements `update_coordinates` on flat
    arrays. This class concatenates the coordinates of all small tensors into one array (few large
    operations instead of many small ones), and splits the result.

    **Idle coordinates do not move.** A coordinate whose gradient is zero and whose state is still
    zero keeps its value and its state: a dead unit, a black pixel, the zero-gradient step by which
    torch.distributed.checkpoint makes optimizer state. A rule that would move such coordinates
    names in `idle_key` the state tensor that tells: it is zero only before the first gradient.

    Example:
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
