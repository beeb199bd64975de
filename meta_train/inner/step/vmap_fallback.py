"""Losses of many runs: by the task's own way, under `vmap`, or run by run if `vmap` cannot."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap
from torch.utils import _pytree as pytree

from meta_train.tasks.base import Batch, BatchedLoss, Loss, Tensors

_RandomState: TypeAlias = tuple[Tensor, Tensor | None, Any, Any]
"""Global generators: torch's of the CPU and of the device, Python's and NumPy's."""

_refused: set[tuple[Any, ...]] = set()
"""Names and shapes of problems whose loss `vmap` has refused."""


def losses_of_runs(
    loss: Loss, parameters: Tensors, buffers: Tensors, batch: Batch, copies: int = 1
) -> tuple[Tensor, Tensors]:
    """Return the differentiable losses of all runs, and their buffers afterwards.

    `vmap` cannot batch some modules: fused kernels (`nn.GRU`, `nn.LSTM`) and branches on values
    (`if x.mean() > 0`). It is tried once for each set of names and shapes; if it fails, such
    problems are computed run by run from then on. A failed try restores the random state, so that a
    resumed process, which tries again, gets the same numbers.

    Recomputation in the backward pass (`torch.utils.checkpoint`) counts as refused: `vmap` has
    ended by then.

    Args:
        loss: the loss of one run.
        parameters: `[runs, *param]` by name.
        buffers: `[runs, *buffer]` by name.
        batch: `[runs, ...]`.
        copies: the runs are this many copies, copy after copy. Copies of a run draw the same random
            numbers (dropout), other runs different ones.

    Returns:
        Losses `[runs]`, and buffers shaped as given.

    Raises:
        Exception: any error of the loss itself.
    """
    if isinstance(loss, BatchedLoss):
        return loss.many(parameters, buffers, batch)
    if torch.compiler.is_compiling():
        return _losses_under_vmap(loss, parameters, buffers, batch, copies)
    signature = _signature(parameters, buffers, batch)
    device = next(iter(parameters.values())).device
    if signature not in _refused:
        before = _random_state(device)
        try:
            with _no_recomputation():
                return _losses_under_vmap(loss, parameters, buffers, batch, copies)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            _restore(device, before)
    found = _one_by_one(loss, parameters, buffers, batch, copies, device)
    _refused.add(signature)  # the loss itself works
    losses = torch.stack([one for one, _ in found])
    return losses, {key: torch.stack([own[key] for _, own in found]) for key in buffers}


@contextmanager
def _no_recomputation() -> Iterator[None]:
    """Refuse hooks on saved tensors, unless some are in use already."""
    with ExitStack() as stack:
        with suppress(RuntimeError):
            stack.enter_context(
                torch.autograd.graph.disable_saved_tensors_hooks("vmap has ended by then")
            )
        yield


def _losses_under_vmap(
    loss: Loss, parameters: Tensors, buffers: Tensors, batch: Batch, copies: int
) -> tuple[Tensor, Tensors]:
    """Losses and new buffers of all runs; copies of a run draw the same random numbers."""
    batched = vmap(loss, randomness="different")
    if copies == 1:
        found: tuple[Tensor, Tensors] = batched(parameters, buffers, batch)
        return found
    split = pytree.tree_map(lambda t: t.unflatten(0, (copies, -1)), (parameters, buffers, batch))
    found = vmap(batched, randomness="same")(*split)
    joined: tuple[Tensor, Tensors] = pytree.tree_map(lambda t: t.flatten(0, 1), found)
    return joined


def _one_by_one(
    loss: Loss,
    parameters: Tensors,
    buffers: Tensors,
    batch: Batch,
    copies: int,
    device: torch.device,
) -> list[tuple[Tensor, Tensors]]:
    found = []
    count = len(next(iter(parameters.values())))
    runs = count // copies
    before: list[_RandomState] = []
    for row in range(count):
        if row < runs:
            before.append(_random_state(device))
        else:  # a copy of an earlier run
            _restore(device, before[row % runs])
        own = pytree.tree_map(lambda value, row=row: value[row], (parameters, buffers, batch))
        found.append(loss(*own))
    return found


def _signature(*trees: Any) -> tuple[Any, ...]:
    leaves, structure = pytree.tree_flatten(trees)
    return structure, tuple((tuple(leaf.shape[1:]), leaf.dtype) for leaf in leaves)


def _random_state(device: torch.device) -> _RandomState:
    own = None
    if device.type != "cpu":
        own = torch.get_device_module(device).get_rng_state(device)
    return torch.get_rng_state(), own, random.getstate(), np.random.get_state()


def _restore(device: torch.device, state: _RandomState) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.get_device_module(device).set_rng_state(state[1], device)
    random.setstate(state[2])
    np.random.set_state(state[3])
