"""The pending update of each parameter tensor in a step, and how it is cut into bounded pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from learned_opt.rules.base import State

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor
    from torch.optim import Optimizer

T = TypeVar("T")


@dataclass(slots=True, eq=False)  # not frozen: to make a frozen one takes four times as long
class PendingUpdate:
    """One parameter tensor in a step that is about to be taken.

    Attributes:
        parameter: the tensor, `[*param]`. A complex one as real numbers, `[*param, 2]`; of a
            sharded one, the part that this process holds.
        gradient: its gradient, same shape, not negated by `maximize`.
        state: the rule's state before the step.
        group: the parameter group, with `lr` and the other options.
        name: the name from `named_parameters()`, else the position: "0.3" is the fourth of group 0.
        sharded: the DTensor of which `parameter` is a part, or None.
    """

    parameter: Tensor
    gradient: Tensor
    state: State
    group: dict[str, Any]
    name: str
    sharded: DTensor | None = None

    @property
    def mesh(self) -> DeviceMesh | None:
        """The processes that hold the parts of the tensor, if it is sharded."""
        return None if self.sharded is None else self.sharded.device_mesh

    def split(self, limit: int, keys: Iterable[str]) -> Iterator[PendingUpdate]:
        """Views of at most `limit` coordinates, for rules that treat coordinates alone.

        Args:
            limit: most coordinates in a piece.
            keys: the state tensors that the pieces get, `[*param, *trailing]` each. All pieces
                share `step`.
        """
        keys = tuple(keys)
        for index in piece_indices(self.parameter.shape, limit):
            state = {key: self.state[key][index] for key in keys}
            state["step"] = self.state["step"]
            parameter, gradient = self.parameter[index], self.gradient[index]
            yield replace(self, parameter=parameter, gradient=gradient, state=state)


def distinct_names(optimizer: Optimizer, updates: Sequence[PendingUpdate]) -> list[str]:
    """Names of tensors; with the number of the group where two groups share a name."""
    named = [name for group in optimizer.param_groups for name in group.get("param_names", ())]
    if len(set(named)) == len(named):
        return [update.name for update in updates]
    places = {id(group): index for index, group in enumerate(optimizer.param_groups)}
    return [f"{places[id(update.group)]}.{update.name}" for update in updates]


def piece_indices(shape: Sequence[int], limit: int) -> Iterator[tuple[int | slice, ...]]:
    """Index tuples that cut a tensor of `shape` into pieces of at most `limit` elements.

    A piece is a run of whole rows if a row fits; else each row is cut in turn. So every piece is a
    view, whatever the strides. A tensor that fits, a 0-dim and an empty one give one piece.
    """
    elements = 1
    for size in shape:
        elements *= size
    if elements <= limit or not shape:
        yield ()
        return
    row = elements // shape[0]
    if row > limit:
        for index in range(shape[0]):
            for rest in piece_indices(shape[1:], limit):
                yield (index, *rest)
    else:
        rows = limit // row
        for start in range(0, shape[0], rows):
            yield (slice(start, start + rows),)


def batch_by_size(items: Sequence[T], sizes: Sequence[int], limit: int) -> Iterator[list[T]]:
    """Consecutive batches of items whose sizes add up to at most `limit`, or of one larger item."""
    batch: list[T] = []
    total = 0
    for item, size in zip(items, sizes, strict=True):
        if batch and total + size > limit:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch
