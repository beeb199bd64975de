"""Update rules whose weights are learning rates for the tensors of one given model.

They have a registry of their own, since the rules of `RULES` take tensors of any shapes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from learned_opt.registry import create
from learned_opt.rules.base import Context, State, UpdateRule
from learned_opt.rules.registry import RULES, RuleEntry


class _LearnedRates(UpdateRule):
    """SGD with learned learning rates: delta = -rate * g.

    Args:
        shapes: shapes of the tensors, in the order in which a driver gives them.
        **settings: see `UpdateRule`.
    """

    second_order = True  # as in the papers

    def __init__(self, shapes: Sequence[Sequence[int]], **settings: Any) -> None:
        self.shapes = tuple(tuple(int(size) for size in shape) for shape in shapes)
        super().__init__(shapes=[list(shape) for shape in self.shapes], **settings)
        if not self.shapes:
            raise ValueError("shapes must name at least one tensor, got none")

    def init_tensor_state(self, parameter: Tensor) -> State:
        """Empty: `step` is the only state."""
        return {}

    def update(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context,
    ) -> tuple[list[Tensor], list[State]]:
        """See the class."""
        given = tuple(tuple(gradient.shape) for gradient in gradients)
        if given != self.shapes:
            raise ValueError(
                f"{type(self).__name__} has learning rates for tensors of shapes "
                f"{_list_shapes(self.shapes)}, in this order; got {_list_shapes(given)}"
            )
        deltas = [
            -self.rate(index, state["step"]) * gradient
            for index, (gradient, state) in enumerate(zip(gradients, states, strict=True))
        ]
        return deltas, [{"step": state["step"]} for state in states]

    @abstractmethod
    def rate(self, index: int, step: Tensor) -> Tensor:
        """The learning rate of a tensor in a step, counted from 1: `[*param]` or 0-dim."""


class MetaSGD(_LearnedRates):
    """A learning rate for every coordinate: delta = -alpha * g (Li et al. 2017, arXiv 1707.09835).

    State: none besides `step`.

    Args:
        shapes: shapes of the tensors, in the order in which a driver gives them.
        init_range: bounds of the uniform distribution of initial learning rates (section 4.1).

    Examples:
        >>> rule = MetaSGD(shapes=[p.shape for p in model.parameters()], init_range=(0.01, 0.02))
        >>> adapted = adapt(model, (inputs, targets), rule=rule, steps=1)
    """

    def __init__(
        self, *, shapes: Sequence[Sequence[int]], init_range: Sequence[float] = (0.005, 0.1)
    ) -> None:
        init_range = tuple(init_range)
        super().__init__(shapes, init_range=init_range)
        if len(init_range) != 2 or not init_range[0] <= init_range[1]:
            raise ValueError(f"init_range must be two ordered bounds, got {init_range}")
        self.rates = nn.ParameterList(
            nn.Parameter(torch.empty(shape, dtype=torch.float32).uniform_(*init_range))
            for shape in self.shapes
        )

    def rate(self, index: int, step: Tensor) -> Tensor:
        """`[*param]`, the same in every step."""
        rate: Tensor = self.rates[index]
        return rate


class LayerStepRates(_LearnedRates):
    """A learning rate for every tensor and step: delta_t = -alpha_t * g.

    LSLR of Antoniou et al. 2019 (arXiv 1810.09502). State: none besides `step`.

    Args:
        shapes: shapes of the tensors, in the order in which a driver gives them.
        steps: steps with learning rates of their own; later steps use the last.
        init: initial value of all learning rates.

    Examples:
        >>> rule = LayerStepRates(shapes=[p.shape for p in model.parameters()], steps=2)
        >>> adapted = adapt(model, (inputs, targets), rule=rule, steps=2)
    """

    def __init__(
        self, *, shapes: Sequence[Sequence[int]], steps: int = 5, init: float = 0.1
    ) -> None:
        super().__init__(shapes, steps=steps, init=init)
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.rates = nn.Parameter(torch.full((len(self.shapes), steps), init, dtype=torch.float32))

    def rate(self, index: int, step: Tensor) -> Tensor:
        """0-dim."""
        place = (step.detach() - 1).clamp(0, self.rates.shape[1] - 1).long()
        return self.rates[index].gather(0, place.reshape(1)).reshape(())


RATE_RULES: Mapping[str, RuleEntry] = MappingProxyType(
    {
        "meta-sgd": RuleEntry(MetaSGD, "A learning rate for every coordinate"),
        "layer-step-rates": RuleEntry(LayerStepRates, "A learning rate for every tensor and step"),
    }
)

ANY_RULES: Mapping[str, RuleEntry] = MappingProxyType({**RULES, **RATE_RULES})
"""The rules of both registries."""


def create_any_rule(name: str, **settings: Any) -> UpdateRule:
    """Build a rule of `RULES` or `RATE_RULES`.

    Raises:
        ValueError: an unknown name or setting, or a value that the rule refuses.
    """
    return create("rule", name, {key: entry.cls for key, entry in ANY_RULES.items()}, settings)


def any_rule_name(rule: UpdateRule) -> str | None:
    """The name of a rule's class in `RULES` or `RATE_RULES`; None if it has none."""
    for name, entry in ANY_RULES.items():
        if type(rule) is entry.cls:
            return name
    return None


def _list_shapes(shapes: Sequence[Sequence[int]]) -> str:
    """The first six shapes, and how many there are if there are more."""
    shown = [str(list(shape)) for shape in shapes[:6]]
    return ", ".join(shown) + (f" ... ({len(shapes)} in all)" if len(shapes) > 6 else "")
