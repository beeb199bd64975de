"""Inner losses and their gradients, of one run or many, by autograd or by a task's own way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from learned_opt.adaptation.second_derivatives import twice_differentiable
from meta_train.inner.state import InnerState
from meta_train.tasks.base import Batch, BatchedLoss, Loss, Tensors


def loss_and_gradients(
    losses_of: Callable[[Tensors, Tensors, Batch], tuple[Tensor, Tensors]],
    inner: InnerState,
    batch: Batch,
    *,
    keep: bool,
    twice: bool,
    learned: bool,
) -> tuple[Tensor, Tensors, Tensors, Tensors]:
    """Compute losses and gradients by autograd.

    Args:
        losses_of: the loss of one run, or of many along a leading axis.
        inner: the state.
        batch: one batch, or one for each run.
        keep: keep the graph of the losses.
        twice: build a graph of the gradients too, if that of the losses is kept.
        learned: fixed tensors may be learned: give the gradients of those that require them.

    Returns:
        Losses, buffers, gradients by name, and the tensors that the loss read.

    Raises:
        ValueError: the loss is not one number for each run, or depends on no parameter.
    """
    parameters = {
        key: value.view_as(value)
        if keep and value.requires_grad
        else value.detach().requires_grad_()
        for key, value in inner.parameters.items()
    }
    # The rule needs no gradient of fixed tensors. The outer loss does, if they are learned.
    fixed, wanted_fixed = {}, {}
    for key, value in inner.fixed.items():
        if keep and value.requires_grad:
            fixed[key] = value.view_as(value)
        elif learned and value.requires_grad:
            fixed[key] = wanted_fixed[key] = value.detach().requires_grad_()
        else:
            fixed[key] = value.detach()
    wanted = {**parameters, **wanted_fixed}
    with torch.enable_grad(), twice_differentiable() if keep else nullcontext():
        losses, buffers = losses_of({**fixed, **parameters}, inner.buffers, batch)
        _check_losses(losses, inner.alive)
        if not losses.requires_grad:
            raise ValueError(
                "the loss of a task depends on none of its parameters: it must be computed from "
                "them by torch, without detach() or item()"
            )
        gradients = torch.autograd.grad(
            losses.sum(),
            list(wanted.values()),
            retain_graph=keep,
            create_graph=keep and twice,
            allow_unused=True,
            materialize_grads=True,
        )
    named = dict(zip(wanted, gradients, strict=True))
    buffers = {key: value.detach() for key, value in buffers.items()}
    if not keep:
        losses = losses.detach()
    return losses, buffers, named, {**fixed, **parameters}


def gradients_by_hand(
    loss: Loss, inner: InnerState, batch: Batch, *, learned: bool
) -> tuple[Tensor, Tensors, Tensors, Tensors] | None:
    """Compute the losses of many runs and their gradients without autograd.

    The numbers are those of `loss_and_gradients`.

    Returns:
        As `loss_and_gradients`; None where the task has no such way.
    """
    if not isinstance(loss, BatchedLoss) or loss.gradients is None:
        return None
    if learned and any(value.requires_grad for value in inner.fixed.values()):
        return None
    if torch.compiler.is_compiling():  # autograd is what a trace expects
        return None
    parameters = {key: value.detach() for key, value in inner.parameters.items()}
    read = {**{key: value.detach() for key, value in inner.fixed.items()}, **parameters}
    losses, buffers, found = loss.gradients(read, inner.buffers, batch, None)
    buffers = {key: value.detach() for key, value in buffers.items()}
    return losses, buffers, {key: found[key] for key in parameters}, read


def _check_losses(losses: Any, alive: Tensor) -> None:
    """Check that there is one number for each run: the sum of others would be trained in silence.

    Raises:
        ValueError: says what there is.
    """
    if not isinstance(losses, Tensor):
        raise ValueError(f"the loss of a task must be a 0-dim tensor, got {type(losses).__name__}")
    if losses.shape != alive.shape:
        got = list(losses.shape[alive.dim() :])
        raise ValueError(f"the loss of a task must be a 0-dim tensor, got shape {got}")
