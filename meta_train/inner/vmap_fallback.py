"""Losses of many runs: under `vmap`, or run by run if `vmap` cannot batch the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils import _pytree as pytree

from meta_train.tasks.base import Batch, Loss, Tensors

_refused: set[tuple[Any, ...]] = set()
"""Names and shapes of problems whose loss `vmap` has refused."""


def losses_of_runs(
    loss: Loss, parameters: Tensors, buffers: Tensors, batch: Batch
) -> tuple[Tensor, Tensors]:
    """Return the differentiable losses of all runs, and their buffers afterwards.

    `vmap` cannot batch some modules: fused kernels (`nn.GRU`, `nn.LSTM`) and branches on values
    (`if x.mean() > 0`). It is tried once for each set of names and shapes; if it fails, such
    problems are computed run by run from then on. A failed try restores the random state, so that a
    resumed process, which tries again, gets the same numbers.

    Args:
        loss: the loss of one run.
        parameters: `[runs, *param]` by name.
        buffers: `[runs, *buffer]` by name.
        batch: `[runs, ...]`.

    Returns:
        Losses `[runs]`, and buffers shaped as given.

    Raises:
        Exception: any error of the loss itself.
    """
    batched = vmap(loss, randomness="different")
    if torch.compiler.is_compiling():
        losses, buffers = batched(parameters, buffers, batch)
        return losses, buffers
    signature = _signature(parameters, buffers, batch)
    if signature not in _refused:
        device = next(iter(parameters.values())).device
        before = _random_state(device)
        try:
            losses, buffers = batched(parameters, buffers, batch)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            _restore(device, before)
        else:
            return losses, buffers
    found = [
        loss(*pytree.tree_map(lambda value, run=run: value[run], (parameters, buffers, batch)))
        for run in range(len(next(iter(parameters.values()))))
    ]
    _refused.add(signature)  # the loss itself works
    losses = torch.stack([one for one, _ in found])
    return losses, {key: torch.stack([own[key] for _, own in found]) for key in buffers}


def _signature(*trees: Any) -> tuple[Any, ...]:
    leaves, structure = pytree.tree_flatten(trees)
    return structure, tuple((tuple(leaf.shape[1:]), leaf.dtype) for leaf in leaves)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    own = None
    if device.type != "cpu":
        own = torch.get_device_module(device).get_rng_state(device)
    return torch.get_rng_state(), own


def _restore(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.get_device_module(device).set_rng_state(state[1], device)
