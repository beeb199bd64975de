"""Inner training whose parameters are one vector, for rules that step every coordinate alike.

A network of twenty tensors costs a coordinate-wise rule twenty calls a step, each of many small
operations, and as many nodes of the graph. As one vector it costs one, and the loss reads views.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learned_opt.rules.base import State
from learned_opt.rules.coordinate_rule import CoordinateRule, unit_major
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import InnerState
from meta_train.tasks.base import Batch, Loss, Tensors

JOINED = ""
"""The name of the vector; no parameter of a module has it."""


def can_join(loop: InnerLoop, inner: InnerState) -> bool:
    """Whether `join` gives the same inner training with one vector.

    So it is for one run of a coordinate-wise rule that has weights, if no teacher compares tensor
    by tensor. Rules without weights are so cheap that there is nothing to gain.
    """
    rule, values = loop.rule, list(inner.parameters.values())
    if not isinstance(rule, CoordinateRule) or not list(rule.parameters()):
        return False
    if loop.vectorize or loop.teacher is not None or loop.weights is not None:
        return False
    known = {"step", *rule.coordinate_state()}
    return (
        len(values) > 1
        and len({(value.dtype, value.device) for value in values}) == 1
        and all(state.keys() == known for state in inner.states.values())
        and not {JOINED} & {*inner.parameters, *inner.fixed}
    )


def join(loop: InnerLoop, inner: InnerState) -> tuple[InnerLoop, InnerState]:
    """Join the parameters of a run, and the rule's state of them, to one vector each.

    Args:
        loop: takes the steps; see `can_join`.
        inner: the state of the run. Derivatives flow through the joining.

    Returns:
        A loop and a state of the same run. `split` undoes the joining of the state.
    """
    rule = loop.rule
    assert isinstance(rule, CoordinateRule)
    vector = torch.cat([value.reshape(-1) for value in inner.parameters.values()])
    state: State = {"step": next(iter(inner.states.values()))["step"]}
    for key, trailing in rule.coordinate_state().items():
        parts = [own[key].reshape(-1, *trailing) for own in inner.states.values()]
        state[key] = unit_major(torch.cat(parts), 1)
    shapes = {name: value.shape for name, value in inner.parameters.items()}
    joined = replace(inner, parameters={JOINED: vector}, states={JOINED: state})
    return replace(loop, loss=JoinedLoss(loop.loss, shapes)), joined


def split(joined: InnerState, like: InnerState) -> InnerState:
    """Undo `join`.

    Args:
        joined: a state of joined inner training.
        like: a state that has the names and shapes of the parameters.
    """
    shapes = {name: value.shape for name, value in like.parameters.items()}
    states: dict[str, State] = {name: {} for name in shapes}
    for key, value in joined.states[JOINED].items():
        if key == "step":
            for state in states.values():
                state[key] = value
            continue
        for name, part in _parts(value, shapes).items():
            states[name][key] = part
    return replace(joined, parameters=_parts(joined.parameters[JOINED], shapes), states=states)


@dataclass(frozen=True)
class JoinedLoss:
    """A loss that reads its parameters from one vector.

    Attributes:
        loss: the loss of the parameters by name.
        shapes: their shapes, in the order in which the vector holds them.
    """

    loss: Loss
    shapes: dict[str, torch.Size]

    def __call__(
        self, parameters: Tensors, buffers: Tensors, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        """The loss and the new buffers."""
        rest = {key: value for key, value in parameters.items() if key != JOINED}
        return self.loss({**rest, **_parts(parameters[JOINED], self.shapes)}, buffers, batch)


def _parts(value: Tensor, shapes: dict[str, torch.Size]) -> Tensors:
    """Views of `[N, *trailing]` as `[*param, *trailing]` by name."""
    pieces = value.split([shape.numel() for shape in shapes.values()])
    return {
        name: piece.reshape(*shape, *value.shape[1:])
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }
