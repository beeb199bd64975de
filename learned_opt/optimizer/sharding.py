"""Sharded parameters: each process steps the part that it holds.

FSDP2's `fully_shard` and tensor parallelism make parameters `DTensor`s. A rule that treats every
coordinate alone needs no whole tensor, so it steps local parts; others ask for what they need of
whole tensors. State per coordinate, `[*param, *trailing]`, is a DTensor placed like its parameter,
so that torch.distributed.checkpoint saves every part. Numbers per tensor are plain tensors, equal
on all processes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from learned_opt.rules.base import State, UpdateRule
from learned_opt.rules.coordinate_rule import CoordinateRule, unit_major
from learned_opt.rules.parts.whole_tensors import LOCAL, WholeTensors

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: object) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor. Does not import DTensor itself, which takes over a second."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def device_mesh(tensor: Tensor) -> DeviceMesh | None:
    """The processes that hold the parts of a tensor, if it is a DTensor."""
    return tensor.device_mesh if is_sharded(tensor) else None


def whole_tensors(sharded: Sequence[DTensor | None]) -> WholeTensors | None:
    """Answers questions of rules about whole tensors in a step; None if none is sharded.

    Args:
        sharded: by position in the step, the DTensor of which the rule is given a part, or None.
    """
    if all(one is None for one in sharded):
        return None
    from learned_opt.optimizer.sharded_tensors import ShardedTensors

    return ShardedTensors(sharded)


def check_parameter(parameter: Tensor, rule: UpdateRule) -> None:
    """Check that the rule can step a parameter and that its state can be saved.

    Raises:
        RuntimeError: flattened by FSDP1; or a DTensor that is complex or not yet reduced, or under
            a rule that steps whole tensors only.
    """
    # FSDP1 marks the parameters that it flattens by this attribute; there is no public test.
    if getattr(parameter, "_fsdp_flattened", False):
        raise RuntimeError(
            "FullyShardedDataParallel (FSDP1) is not supported: its optim_state_dict cannot save "
            "state with more dimensions than the parameter, as learned optimizers have. "
            "Use torch.distributed.fsdp.fully_shard (FSDP2)"
        )
    if not is_sharded(parameter):
        return
    if parameter.is_complex():
        raise RuntimeError("complex DTensor parameters are not supported")
    if any(placement.is_partial() for placement in parameter.placements):
        raise RuntimeError(f"cannot step a DTensor parameter placed {parameter.placements}")
    if not isinstance(rule, CoordinateRule) and not rule.takes_parts:
        raise RuntimeError(
            f"rule {type(rule).__name__} steps whole tensors: it takes no DTensor parameters"
        )


def local_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, as real numbers; shares its memory."""
    if is_sharded(tensor):
        tensor = tensor.to_local()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def local_gradient(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The part of a gradient that belongs to this process's part of the parameter.

    Raises:
        RuntimeError: the parameter is a DTensor and the gradient is not.
    """
    if is_sharded(parameter):
        if not is_sharded(gradient):
            raise RuntimeError("the gradient of a DTensor parameter must be a DTensor")
        if gradient.placements != parameter.placements:
            gradient = gradient.redistribute(parameter.device_mesh, parameter.placements)
    # A lazily conjugated gradient has no real view; parameters are never lazily conjugated.
    return local_part(gradient.resolve_conj())


def local_state(state: State, parameter: Tensor) -> State:
    """The local parts of a state, sharing its memory; the state itself if it is not sharded."""
    if not is_sharded(parameter):
        return state
    return {key: local_part(value) for key, value in state.items()}


def init_state(rule: UpdateRule, parameter: Tensor, direction: str | None) -> State:
    """Make the state of a parameter, sharded like it; `step` is a plain tensor on every process.

    Raises:
        RuntimeError: see `check_parameter`.
    """
    check_parameter(parameter, rule)
    if not is_sharded(parameter):
        return rule.init_state(local_part(parameter.detach()), direction=direction)
    state = rule.init_state(
        local_part(parameter.detach()),
        parameter.shape,
        direction,
        whole_tensors([parameter]) or LOCAL,
    )
    return {
        key: _assemble(value, parameter) if is_placed(key, value, parameter, rule) else value
        for key, value in state.items()
    }


def is_placed(key: str, value: Tensor, parameter: Tensor, rule: UpdateRule) -> bool:
    """Whether a state tensor, or a part of it, is sharded like its parameter.

    `step`, numbers of the whole tensor, and state with fewer axes than the parameter are not.
    """
    own = key == "step" or key in rule.tensor_state
    return not own and value.dim() >= parameter.dim()


def unit_major_parts(value: Tensor, parameter: Tensor) -> Tensor:
    """A state tensor, whole or sharded like its parameter, in the layout that rules make it in."""
    # A complex parameter's state has the shape of its real numbers, `[*param, 2, *trailing]`.
    dims = parameter.dim() + parameter.is_complex()
    if value.dim() <= dims or value.shape[: parameter.dim()] != parameter.shape:
        return value.contiguous()
    if is_sharded(value) and is_sharded(parameter):
        return _assemble(unit_major(value.to_local(), dims), parameter)
    return unit_major(value, dims)


def _assemble(part: Tensor, parameter: DTensor) -> Tensor:
    """Make a DTensor whose part on this process is `part`, `[*local_param, *trailing]`."""
    from torch.distributed.tensor import DTensor

    shape = torch.Size((*parameter.shape, *part.shape[parameter.dim() :]))
    whole = DTensor.from_local(
        part,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=shape,
        stride=unit_major(torch.empty(shape, device="meta"), parameter.dim()).stride(),
    )
    # Offloaded parameters are not on their mesh's device.
    return whole.to(part.device)


def check_state(key: object, state: Mapping[str, Any], parameter: Tensor) -> None:
    """Check that a loaded state can be placed like its parameter.

    Raises:
        ValueError: the state is sharded, and the parameter is not or over other processes.
    """
    for name, value in state.items():
        if not is_sharded(value):
            continue
        if not is_sharded(parameter) or value.device_mesh != parameter.device_mesh:
            raise ValueError(
                f"the loaded state of parameter {key} has {name!r} sharded over "
                f"{value.device_mesh}, unlike the parameter: load it with "
                "torch.distributed.checkpoint, which reshards it"
            )


def place_like(parameter: Tensor, key: str, value: Tensor, rule: UpdateRule) -> Tensor:
    """Place a state tensor, whole or sharded, like its parameter, if it is shaped like it.

    The result may share memory with `value`.
    """
    if not is_sharded(parameter) or not is_placed(key, value, parameter, rule):
        return value
    if is_sharded(value):
        return value.redistribute(parameter.device_mesh, parameter.placements)
    from torch.distributed.tensor import distribute_tensor

    # Every process loaded the same value: nothing is sent.
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def mean_loss(loss: Tensor | None, sharded: Sequence[DTensor | None]) -> Tensor | None:
    """The mean of the losses of all processes that share tensors; the loss itself if none do.

    Each process may have seen its own part of a batch. Numbers of a whole tensor would part ways if
    each stepped them by its own loss.
    """
    meshes = dict.fromkeys(one.device_mesh for one in sharded if one is not None)
    if loss is None or not meshes:
        return loss
    mean = loss.clone()
    for mesh in meshes:
        mean = mean.to(mesh.device_type)
        for group in mesh.get_all_groups():
            torch.distributed.all_reduce(mean, group=group)
        mean /= mesh.size()
    return mean.to(loss.device)


def all_parts(flags: Tensor, meshes: Sequence[DeviceMesh | None]) -> Tensor:
    """Reduce flags of local parts, `[n]`, to flags of whole tensors: true if true of all parts.

    One all-reduce for each dimension of each mesh; none if nothing is sharded.
    """
    together: dict[DeviceMesh, list[int]] = {}
    for index, mesh in enumerate(meshes):
        if mesh is not None:
            together.setdefault(mesh, []).append(index)
    if not together:
        return flags
    agreed = list(flags.unbind())
    for mesh, indices in together.items():
        votes = torch.stack([agreed[index] for index in indices]).int().to(mesh.device_type)
        for group in mesh.get_all_groups():
            torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MIN, group)
        for index, vote in zip(indices, votes.bool().to(flags.device).unbind(), strict=True):
            agreed[index] = vote
    return torch.stack(agreed)
