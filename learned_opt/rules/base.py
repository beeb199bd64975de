"""The contract of update rules.

An update rule is a pure, differentiable function

    (gradients, parameters, states, context) -> (deltas, new states)

over the whole list of parameter tensors, as in optax. It changes nothing in place, copies nothing
to the host and takes no branch that depends on a value, so the same code runs under autograd,
`torch.func.vmap`, `torch.compile` and a plain loop. The drivers (`learned_opt.functional` for the
differentiable ones, `learned_opt.optimizer` for the in-place one) do the rest:
`parameter + lr * delta`, weight decay, `maximize`, chunks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from learned_opt.checks.rule_results import check_results
from learned_opt.checks.setting_types import plain
from learned_opt.rules.parts.whole_tensors import LOCAL, WholeTensors

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

    Examples:
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
        tensors: WholeTensors = LOCAL,
    ) -> State:
        """Make the state of a tensor that has taken no step, on the parameter's device.

        Args:
            parameter: the tensor, or the part of a sharded one that this process holds.
            shape: of the whole tensor, if `parameter` is a part.
            direction: one of `directions`, or None.
            tensors: answers about the whole tensor, if `parameter` is a part: a step of it alone.
        """
        step = torch.zeros((), dtype=self.wide_dtype, device=parameter.device)
        whole = parameter.shape if shape is None else shape
        return {"step": step, **self.init_part_state(parameter, whole, direction, tensors)}

    def init_part_state(
        self,
        parameter: Tensor,
        shape: Sequence[int],
        direction: str | None,
        tensors: WholeTensors,
    ) -> State:
        """Make the rule's own state of a tensor; for rules with `takes_parts` or `directions`.

        `parameter` may be a part of a tensor of `shape`, of which `tensors` tells numbers.
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
            ValueError: the context lacks a field that the rule needs, or `update` has returned
                tensors of other shapes.
        """
        if self.dtype != self.wide_dtype:
            return self._forward_widely(gradients, parameters, states, context)
        context = context or Context()
        self.check_context(context)
        advanced = [{**state, "step": state["step"] + 1} for state in states]
        deltas, new_states = self.update(
            [gradient.to(self.dtype) for gradient in gradients],
            [parameter.to(self.dtype) for parameter in parameters],
            advanced,
            context,
        )
        check_results(type(self).__name__, gradients, states, deltas, new_states)
        return deltas, new_states

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
        """Compute deltas, `[*param]` each, and all new states, in the shapes of the old ones.

        `step` counts from 1 and is already advanced.
        """

    def decay_factor(self, state: State, context: Context) -> float | Tensor:
        """The factor on the weight decay at the step that led to `state`, 0-dim; by default 1.

        A rule with its own schedule gives the schedule, as AdamW's weight decay follows that of
        its learning rate.
        """
        return 1.0

    averages: ClassVar[bool] = False
    """Whether the model is evaluated at other values than those that it trains on: averages."""

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


_HOW_TO_GIVE: Mapping[str, str] = {
    "loss": "the loss: call step(closure) with a closure that returns it "
    "(after a usual backward pass, step(lambda: loss) is enough)",
    "total_steps": "total_steps, the planned number of optimizer steps: "
    "LearnedOptimizer(model.parameters(), rule=..., total_steps=epochs * len(loader))",
}
