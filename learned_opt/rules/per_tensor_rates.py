"""Update rules whose weights are learning rates of the tensors of one given model.

They cannot stand in the table of all rules, since those must take tensors of any shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from learned_opt.registry import create
from learned_opt.rules import RULES
from learned_opt.rules.base import Context, State, UpdateRule


class _Rates(UpdateRule):
    """SGD at learned rates.

    Args:
        shapes: of the tensors, in the order in which a driver gives them.
        **settings: see `UpdateRule`.
    """

    second_order = True  # the rates are in the end what the inner gradients are multiplied with

    def __init__(self, shapes: Sequence[Sequence[int]], **settings: Any) -> None:
        self.shapes = tuple(tuple(int(size) for size in shape) for shape in shapes)
        super().__init__(shapes=[list(shape) for shape in self.shapes], **settings)
        if not self.shapes:
            raise ValueError("shapes must name at least one tensor, got none")

    def init_tensor_state(self, parameter: Tensor) -> State:
        """Nothing but the count of steps."""
        return {}

    def update(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context,
    ) -> tuple[list[Tensor], list[State]]:
        """Take -rate * g for delta."""
        given = tuple(tuple(gradient.shape) for gradient in gradients)
        if given != self.shapes:
            raise ValueError(
                f"the rates of {type(self).__name__} are of tensors of shapes "
                f"{_show(self.shapes)}, in this order; got {_show(given)}"
            )
        deltas = [
            -self.rate(index, state["step"]) * gradient
            for index, (gradient, state) in enumerate(zip(gradients, states, strict=True))
        ]
        return deltas, [{"step": state["step"]} for state in states]

    def rate(self, index: int, step: Tensor) -> Tensor:
        """What a tensor's gradient is multiplied with in a step, counted from 1."""
        raise NotImplementedError


class MetaSGD(_Rates):
    """A learned rate for every coordinate: delta = -alpha * g (Li et al. 2017, arXiv 1707.09835).

    Args:
        shapes: of the tensors, in the order in which a driver gives them.
        init_range: rates start uniform between these (section 4.1 of the paper).
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


class LayerStepRates(_Rates):
    """A learned rate for every tensor and step (LSLR: Antoniou et al. 2019, arXiv 1810.09502).

    Args:
        shapes: of the tensors, in the order in which a driver gives them.
        steps: how many have rates of their own; later ones take the last.
        init: the rate that all start at.
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


RATE_RULES: Mapping[str, type[UpdateRule]] = MappingProxyType(
    {"meta-sgd": MetaSGD, "layer-step-rates": LayerStepRates}
)


def create_any_rule(name: str, **settings: Any) -> UpdateRule:
    """Build a rule, of those that take any tensors or of these.

    Raises:
        ValueError: an unknown name or setting, or a value that the rule refuses.
    """
    return create("rule", name, {**RULES, **RATE_RULES}, settings)


def any_rule_name(rule: UpdateRule) -> str | None:
    """The name that `create_any_rule` knows a rule's class by, if it does."""
    for name, cls in {**RULES, **RATE_RULES}.items():
        if type(rule) is cls:
            return name
    return None


def _show(shapes: Sequence[Sequence[int]]) -> str:
    shown = [str(list(shape)) for shape in shapes[:6]]
    return ", ".join(shown) + (f" ... ({len(shapes)} in all)" if len(shapes) > 6 else "")
