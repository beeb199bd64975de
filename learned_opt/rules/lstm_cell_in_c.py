"""The LSTM cell with its derivative in C, for unrolls: a third of the memory of torch's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learned_opt.c_library import addresses, call_c, load_library

ROWS_PER_THREAD = 1 << 13
"""A row takes some 100 ns with its derivative, and a thread 20 us to make."""

MOST_UNITS = 128
"""More would not fit the stack of a thread."""

NO_DOUBLE_BACKWARD = (
    "the network of a rule does not support double backward: use backward() or "
    "torch.autograd.grad without create_graph"
)


def fits_lstm_cell(x: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether C can step a cell: float32 in the CPU's memory, outside of torch.func.

    Shapes must fit each other, since C would leave the memory of those that are too small.
    Tensors are as `LSTMCellInC` takes them.
    """
    tensors, units = (x, h, c, weight, bias), bias.shape[-1] // 4
    if torch.compiler.is_compiling() or load_library() is None or units > MOST_UNITS:
        return False
    if x.dim() != 2 or not h.shape == c.shape == (units, x.shape[-1]):
        return False
    if weight.shape != (len(x) + units, 4 * units) or bias.shape != (4 * units,):
        return False
    # Tensors under vmap look plain and have no memory.
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return all(not wrapped(value) and _is_float32(value.detach()) for value in tensors)


def _is_float32(tensor: Tensor) -> bool:
    """Whether a tensor, made contiguous, is plain memory."""
    return type(tensor) is Tensor and tensor.dtype is torch.float32 and tensor.is_cpu


class LSTMCellInC(torch.autograd.Function):
    """Columns of x, `[F, N]`, h and c, `[H, N]`, to new h and c, `[H, N]`; see `LSTMCell`.

    It keeps its inputs alone: the backward pass computes the gates anew.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Step the columns."""
        x, h, c, weight, bias = (value.contiguous() for value in (x, h, c, weight, bias))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, h, c, weight, bias)
        new_h, new_c = torch.empty_like(c), torch.empty_like(c)
        _call("lstm_forward", weight, bias, x, h, c, new_h, new_c)
        return new_h, new_c

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor | None, grad_c: Tensor | None) -> Any:
        """Compute the gates anew, and all gradients in the same blocks."""
        if torch.is_grad_enabled():
            raise RuntimeError(NO_DOUBLE_BACKWARD)
        x, h, c, weight, bias = ctx.saved_tensors
        if grad_h is None and grad_c is None:
            return None, None, None, None, None
        grad_h = torch.zeros_like(c) if grad_h is None else grad_h.contiguous()
        grad_c = torch.zeros_like(c) if grad_c is None else grad_c.contiguous()
        found = [torch.empty_like(value) for value in (x, h, c, weight, bias)]
        _call("lstm_backward", weight, bias, x, h, c, grad_h, grad_c, *found)
        return tuple(
            value if needed else None
            for value, needed in zip(found, ctx.needs_input_grad, strict=True)
        )


def _call(function: str, weight: Tensor, bias: Tensor, x: Tensor, *others: Tensor) -> None:
    features, count = x.shape
    threads = max(1, min(torch.get_num_threads(), count // ROWS_PER_THREAD))
    arrays = addresses([weight, bias, x, *others])
    call_c(function, count, features, len(bias) // 4, arrays, threads)
