"""What a step of the optimizer is about to do, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from learned_opt.optimizer.chunks import slice_up
from learned_opt.rules.base import State

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.optim import Optimizer


@dataclass(frozen=True)
class PendingUpdate:
    """What a step is about to do to one parameter tensor.

    Attributes:
        parameter: the tensor (as real numbers where it is complex, `[*param, 2]`; the part of it
            that is in this process where it is sharded).
        gradient: its gradient, same shape, not negated by `maximize`.
        state: the rule's state before the step.
        group: the parameter group, with `lr` and the other options.
        name: the name from `named_parameters()`, else the position: "0.3" is the fourth of group 0.
        mesh: the processes that hold the parts of the tensor, if it is sharded.
    """

    parameter: Tensor
    gradient: Tensor
    state: State
    group: dict[str, Any]
    name: str
    mesh: DeviceMesh | None = None

    def cut(self, limit: int, keys: Iterable[str]) -> Iterator[PendingUpdate]:
        """Views of at most `limit` coordinates, for rules that treat coordinates alone.

        The pieces share `step`; of the state, they get `keys`, `[*param, *trailing]` each.
        """
        keys = tuple(keys)
        for index in slice_up(self.parameter.shape, limit):
            state = {key: self.state[key][index] for key in keys}
            state["step"] = self.state["step"]
            parameter, gradient = self.parameter[index], self.gradient[index]
            yield replace(self, parameter=parameter, gradient=gradient, state=state)


def distinct_names(optimizer: Optimizer, updates: Sequence[PendingUpdate]) -> list[str]:
    """Names of tensors; where groups have some alike, with the number of the group."""
    named = [name for group in optimizer.param_groups for name in group.get("param_names", ())]
    if len(set(named)) == len(named):
        return [update.name for update in updates]
    places = {id(group): index for index, group in enumerate(optimizer.param_groups)}
    return [f"{places[id(update.group)]}.{update.name}" for update in updates]
