"""Numbers and transforms of sharded tensors, for rules that step whole tensors.

Numbers are reduced over the processes. Matrices are shared out: each goes to one process, which
transforms it and sends the parts back. So no matrix is transformed twice, and a process holds only
its share of them at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from learned_opt.rules.parts.features import safe_sqrt
from learned_opt.rules.parts.whole_tensors import (
    LOCAL,
    Transform,
    WholeTensors,
    one_where_zero,
    zero_rows,
)

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

Spread: TypeAlias = "tuple[DeviceMesh, tuple[int, ...]]"
"""A mesh, and those of its dimensions over which a tensor is sharded."""


class ShardedTensors(WholeTensors):
    """Numbers and transforms of tensors whose parts lie in several processes.

    All processes must call with the same tensors in the same order.

    Args:
        owners: by position, the DTensor of which the rule is given a part, or None if it is given
            the whole tensor.
    """

    def __init__(self, owners: Sequence[DTensor | None]) -> None:
        self._owners = owners

    def shapes(self, parts: Sequence[Tensor]) -> list[torch.Size]:
        """See the base class."""
        return [
            part.shape if owner is None else owner.shape
            for part, owner in zip(parts, self._owners, strict=True)
        ]

    def rms(self, parts: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """See the base class; two all-reduces for each mesh dimension."""
        alone, spread = self._split(parts)
        found = LOCAL.rms(alone)
        for (mesh, dims), keys in spread.items():
            groups = [mesh.get_group(dim) for dim in dims]
            largest = torch.stack([_largest(parts[k]) for k in keys])
            largest = one_where_zero(_all_reduce(largest, groups, dist.ReduceOp.MAX))
            squares = [
                (parts[k] / most).square().sum()
                for k, most in zip(keys, largest.unbind(), strict=True)
            ]
            sums = _all_reduce(torch.stack(squares), groups, dist.ReduceOp.SUM)
            counts = sums.new_tensor([max(self._sharded(k).numel(), 1) for k in keys])
            values = safe_sqrt(sums / counts) * largest
            found.update(zip(keys, values.unbind(), strict=True))
        return {k: found[k] for k in parts}

    def norms(self, of_parts: Tensor) -> Tensor:
        """See the base class; two all-reduces for each mesh dimension."""
        whole = of_parts.clone()
        for (mesh, dims), keys in self._split(dict(enumerate(of_parts.unbind())))[1].items():
            groups = [mesh.get_group(dim) for dim in dims]
            # Over the largest first, lest squares overflow.
            largest = one_where_zero(_all_reduce(of_parts[keys], groups, dist.ReduceOp.MAX))
            squares = _all_reduce((of_parts[keys] / largest).square(), groups, dist.ReduceOp.SUM)
            whole[keys] = squares.sqrt() * largest
        return whole

    def sums(self, of_parts: Tensor) -> Tensor:
        """See the base class; one all-reduce for each mesh dimension."""
        whole = of_parts.clone()
        for (mesh, dims), keys in self._split(dict(enumerate(of_parts.unbind())))[1].items():
            groups = [mesh.get_group(dim) for dim in dims]
            whole[keys] = _all_reduce(of_parts[keys], groups, dist.ReduceOp.SUM)
        return whole

    def idle_rows(self, parts: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """See the base class; one all-reduce for each mesh dimension.

        Where rows are cut, processes exchange one number for each row; else one for each tensor.
        """
        alone, spread = self._split(parts)
        found = LOCAL.idle_rows(alone)
        for (mesh, dims), keys in spread.items():
            by_axes: dict[tuple[bool, ...], list[int]] = {}
            for k in keys:
                cut_rows = tuple(_axis(self._sharded(k), dim) > 0 for dim in dims)
                by_axes.setdefault(cut_rows, []).append(k)
            for cut_rows, together in by_axes.items():
                groups = [mesh.get_group(dim) for dim in dims]
                across = [group for group, cut in zip(groups, cut_rows, strict=True) if cut]
                along = [group for group, cut in zip(groups, cut_rows, strict=True) if not cut]
                flags = [zero_rows(parts[k]).to(parts[k].dtype) for k in together]
                joined = _all_reduce(torch.cat(flags), across, dist.ReduceOp.MIN)
                counts = torch.stack([one.sum() for one in joined.split([*map(len, flags)])])
                counts = _all_reduce(counts, along, dist.ReduceOp.SUM)
                for k, count in zip(together, counts.unbind(), strict=True):
                    rows = self._sharded(k).shape[0]
                    found[k] = count / max(rows, 1)
        return {k: found[k] for k in parts}

    def transform(self, function: Transform, parts: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """See the base class."""
        alone, spread = self._split(parts)
        done = LOCAL.transform(function, alone)
        for (mesh, dims), keys in spread.items():
            exchanged = [k for k in keys if len(dims) == 1 and self._is_in_plain_shards(k, dims[0])]
            group = mesh.get_group(dims[0])
            done.update(self._exchange(function, {k: parts[k] for k in exchanged}, group, dims[0]))
            for k in keys:
                if k not in exchanged:
                    done[k] = self._gather(function, parts[k], self._sharded(k))
        return {k: done[k] for k in parts}

    def _split(
        self, parts: Mapping[int, Tensor]
    ) -> tuple[dict[int, Tensor], dict[Spread, list[int]]]:
        """Tensors that are whole on this process, and the others by how they are spread."""
        alone: dict[int, Tensor] = {}
        spread: dict[Spread, list[int]] = {}
        for k, part in parts.items():
            owner = self._owners[k]
            dims = () if owner is None else _sharded_dims(owner)
            if owner is None or not dims:
                alone[k] = part
            else:
                spread.setdefault((owner.device_mesh, dims), []).append(k)
        return alone, spread

    def _sharded(self, k: int) -> DTensor:
        owner = self._owners[k]
        if owner is None:
            raise ValueError(f"tensor {k} is not sharded")
        return owner

    def _is_in_plain_shards(self, k: int, dim: int) -> bool:
        """Whether the shards are consecutive pieces, as `torch.chunk` cuts them."""
        from torch.distributed.tensor import Shard

        return type(self._sharded(k).placements[dim]) is Shard

    def _exchange(
        self, function: Transform, parts: Mapping[int, Tensor], group: dist.ProcessGroup, dim: int
    ) -> dict[int, Tensor]:
        """Send every matrix to one process, transform it there, and send the parts back."""
        if not parts:
            return {}
        ranks, rank = dist.get_world_size(group), dist.get_rank(group)
        plans = {k: _Plan(self._sharded(k), dim, ranks) for k in parts}
        taker = share_out({k: plan.cost for k, plan in plans.items()}, ranks)
        by_taker = [[k for k in parts if taker[k] == one] for one in range(ranks)]
        mine = by_taker[rank]
        sent = [[plans[k].first(parts[k]) for k in keys] for keys in by_taker]
        lengths = [sum(plans[k].size(one) for k in mine) for one in range(ranks)]
        received = _all_to_all(sent, lengths, group, like=next(iter(parts.values())))
        pieces = [
            flat.split([plans[k].size(one) for k in mine]) for one, flat in enumerate(received)
        ]
        wholes = [
            plans[k].whole([pieces[one][i] for one in range(ranks)]) for i, k in enumerate(mine)
        ]
        results = function(wholes) if wholes else []
        cut = [plans[k].cut(result) for k, result in zip(mine, results, strict=True)]
        back = [[parts_of[one] for parts_of in cut] for one in range(ranks)]
        lengths = [sum(plans[k].size(rank) for k in keys) for keys in by_taker]
        returned = _all_to_all(back, lengths, group, like=next(iter(parts.values())))
        done: dict[int, Tensor] = {}
        for keys, flat in zip(by_taker, returned, strict=True):
            for k, piece in zip(keys, flat.split([plans[k].size(rank) for k in keys]), strict=True):
                done[k] = plans[k].last(piece, rank)
        return done

    def _gather(self, function: Transform, part: Tensor, owner: DTensor) -> Tensor:
        """Transform the whole tensor in every process: for shards of several mesh dimensions."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        mesh, placements = owner.device_mesh, owner.placements
        placed = DTensor.from_local(
            part, mesh, placements, run_check=False, shape=owner.shape, stride=owner.stride()
        )
        (result,) = function([placed.full_tensor()])
        # Every process computed the same: nothing is sent.
        return distribute_tensor(result, mesh, placements, src_data_rank=None).to_local()


class _Plan:
    """How one tensor is cut over processes: along one axis, which comes first while it is sent."""

    def __init__(self, owner: DTensor, dim: int, ranks: int) -> None:
        self._axis = _axis(owner, dim)
        length = owner.shape[self._axis]
        self._rest: list[int] = [n for axis, n in enumerate(owner.shape) if axis != self._axis]
        step = -(-length // ranks)
        self._rows: list[int] = [
            max(0, min(length, (one + 1) * step) - one * step) for one in range(ranks)
        ]
        rows, size = owner.shape[0], math.prod(owner.shape)
        self.cost: int = size * min(rows, size // rows)

    def size(self, rank: int) -> int:
        """Elements of the part of a process."""
        return self._rows[rank] * math.prod(self._rest)

    def first(self, part: Tensor) -> Tensor:
        """A part, flat, its cut axis first."""
        return part.movedim(self._axis, 0).reshape(-1)

    def whole(self, pieces: Sequence[Tensor]) -> Tensor:
        """The whole tensor, of the flat parts of all processes."""
        return torch.cat(list(pieces)).reshape(-1, *self._rest).movedim(0, self._axis)

    def last(self, piece: Tensor, rank: int) -> Tensor:
        """The inverse of `first`."""
        return piece.reshape(self._rows[rank], *self._rest).movedim(0, self._axis)

    def cut(self, whole: Tensor) -> list[Tensor]:
        """The parts of all processes, as `first` gives them."""
        return [piece.reshape(-1) for piece in whole.movedim(self._axis, 0).split(self._rows)]


def share_out(costs: Mapping[int, int], ranks: int) -> dict[int, int]:
    """Give every tensor to a process, the most expensive first, each to the least busy process."""
    load = [0] * ranks
    taker: dict[int, int] = {}
    for k in sorted(costs, key=lambda k: (-costs[k], k)):
        taker[k] = load.index(min(load))
        load[taker[k]] += costs[k]
    return taker


def _sharded_dims(owner: DTensor) -> tuple[int, ...]:
    return tuple(
        dim for dim, placement in enumerate(owner.placements) if not placement.is_replicate()
    )


def _axis(owner: DTensor, dim: int) -> int:
    """The axis of a tensor that is cut over a mesh dimension."""
    axis: int = owner.placements[dim].dim  # type: ignore[attr-defined]
    return axis


def _largest(part: Tensor) -> Tensor:
    return part.detach().abs().amax() if part.numel() else part.new_zeros(())


def _all_reduce(
    values: Tensor, groups: Iterable[dist.ProcessGroup], how: dist.ReduceOp.RedOpType
) -> Tensor:
    """Reduce values over the processes of several groups, in place, and return them."""
    for group in groups:
        dist.all_reduce(values, how, group)
    return values


def _all_to_all(
    sent: Sequence[Sequence[Tensor]], lengths: list[int], group: dist.ProcessGroup, like: Tensor
) -> list[Tensor]:
    """Send lists of flat tensors, one list to each process; receive `lengths` from each, flat."""
    flat = [torch.cat(list(parts)) if parts else like.new_empty(0) for parts in sent]
    received = like.new_empty(sum(lengths))
    dist.all_to_all_single(received, torch.cat(flat), lengths, [len(one) for one in flat], group)
    return list(received.split(lengths))
