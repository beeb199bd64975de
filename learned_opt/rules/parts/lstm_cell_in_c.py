"""The LSTM cell with its derivative in C, for unrolls: a third of the memory of torch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learned_opt.c_library import addresses, call_c, load_library

ROWS_PER_THREAD = 1 << 13
"""A row takes some 100 ns with its derivative, and a thread 20 us to make."""

MOST_UNITS, MOST_FEATURES = 128, 512
"""More would not fit the stack of a thread."""

NO_DOUBLE_BACKWARD = (
    "the network of a rule does not support double backward: use backward() or "
    "torch.autograd.grad without create_graph"
)


def fits_lstm_cell(
    x: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor, idle: Tensor | None = None
) -> bool:
    """Whether C can step a cell: float32 in the CPU's memory, outside of torch.func.

    Shapes must fit each other, since C would leave the memory of those that are too small.
    Tensors are as `LSTMCellInC` takes them.
    """
    tensors, units = (x, h, c, weight, bias), bias.shape[-1] // 4
    if torch.compiler.is_compiling() or load_library() is None or units > MOST_UNITS:
        return False
    if x.dim() != 2 or len(x) > MOST_FEATURES or not h.shape == c.shape == (units, x.shape[-1]):
        return False
    if weight.shape != (len(x) + units, 4 * units) or bias.shape != (4 * units,):
        return False
    # Tensors under vmap look plain and have no memory.
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    if idle is not None and (wrapped(idle) or not _is_mask(idle, x.shape[-1])):
        return False
    return all(not wrapped(value) and _is_float32(value.detach()) for value in tensors)


def _is_float32(tensor: Tensor) -> bool:
    """Whether a tensor, made contiguous, is plain memory."""
    return type(tensor) is Tensor and tensor.dtype is torch.float32 and tensor.is_cpu


def _is_mask(tensor: Tensor, count: int) -> bool:
    return tensor.dtype is torch.bool and tensor.is_cpu and tensor.shape == (count,)


class LSTMCellInC(torch.autograd.Function):
    """Columns of x, `[F, N]`, h and c, `[H, N]`, to new h and c, `[H, N]`; see `LSTMCell`.

    It keeps its inputs alone: the backward pass computes the gates anew. Columns that `idle`,
    `[N]` or None, names get zeros.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        weight: Tensor,
        bias: Tensor,
        idle: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Step the columns."""
        x, h, c, weight, bias = (value.contiguous() for value in (x, h, c, weight, bias))
        idle = None if idle is None else idle.contiguous()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, h, c, weight, bias, idle)
        new_h, new_c = torch.empty_like(c), torch.empty_like(c)
        _call("lstm_forward", weight, bias, x, h, c, idle, new_h, new_c)
        return new_h, new_c

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor | None, grad_c: Tensor | None) -> Any:
        """Compute the gates anew, and all gradients in the same blocks."""
        if torch.is_grad_enabled():
            raise RuntimeError(NO_DOUBLE_BACKWARD)
        x, h, c, weight, bias, idle = ctx.saved_tensors
        if grad_h is None and grad_c is None:
            return None, None, None, None, None, None
        grad_h = torch.zeros_like(c) if grad_h is None else grad_h.contiguous()
        grad_c = torch.zeros_like(c) if grad_c is None else grad_c.contiguous()
        read = [
            torch.empty_like(value) if needed else None
            for value, needed in zip((x, h, c), ctx.needs_input_grad, strict=False)
        ]
        by_weights = [torch.empty_like(weight), torch.empty_like(bias)]
        _call("lstm_backward", weight, bias, x, h, c, idle, grad_h, grad_c, *read, *by_weights)
        return *read, *by_weights, None


def _call(function: str, weight: Tensor, bias: Tensor, x: Tensor, *others: Tensor | None) -> None:
    """Call C with the addresses of the tensors; None becomes a null pointer."""
    features, count = x.shape
    threads = max(1, min(torch.get_num_threads(), count // ROWS_PER_THREAD))
    nothing = torch.empty(0)  # its address is 0
    arrays = addresses([weight, bias, x, *(nothing if t is None else t for t in others)])
    call_c(function, count, features, len(bias) // 4, arrays, threads)
