"""One LSTM cell for millions of coordinates: one matrix product, one hand-written derivative.

Every coordinate of the optimizee is a row of the batch, so the cell, not the optimizee, takes most
of the time and memory of an unroll. Written as one `autograd.Function`, it saves what its backward
pass reads and nothing else, and runs about a third of the operations that autograd would record.
The network of a rule is differentiated once (the optimizee twice), so once is what it supports.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class LSTMCell(nn.Module):
    """A long short-term memory cell (Hochreiter & Schmidhuber 1997, with forget gate).

    i, f, o = sigmoid(.), z = tanh(.) of [x, h] W + b;  c' = f c + i z;  h' = o tanh(c').

    Args:
        input_size: features per row.
        hidden_size: units.
        forget_bias: initial bias of the forget gate; the others start at 0.
        init_range: initial weights are uniform in +-this; by default 1 / sqrt(hidden_size).

    Attributes:
        weight: `[input_size + hidden_size, 4 * hidden_size]`, columns in the order i, f, o, z.
        bias: `[4 * hidden_size]`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        forget_bias: float = 1.0,
        init_range: float | None = None,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight = nn.Parameter(
            torch.empty(input_size + hidden_size, 4 * hidden_size, dtype=torch.float32)
        )
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size, dtype=torch.float32))
        bound = 1 / math.sqrt(hidden_size) if init_range is None else init_range
        nn.init.uniform_(self.weight, -bound, bound)
        with torch.no_grad():
            self.bias[hidden_size : 2 * hidden_size] += forget_bias

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step `N` rows.

        Args:
            x: `[N, input_size]`.
            h: `[N, hidden_size]`.
            c: `[N, hidden_size]`.

        Returns:
            New h, new c, and the values of the gates i, f, o side by side, `[N, 3 * hidden_size]`
            (to look at: no derivative flows through them).
        """
        inputs = torch.cat([x, h], dim=-1)
        # Where nothing is differentiated, the machinery around the same lines only costs time.
        grad = torch.is_grad_enabled()
        step: Any = _LSTMCellFunction.apply if grad else _LSTMCellFunction.forward
        new_h, new_c, gates, *_ = step(inputs, c, self.weight, self.bias)
        return new_h, new_c, gates


class _LSTMCellFunction(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        inputs: Tensor, c: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        size = c.shape[-1]
        logits = torch.addmm(bias, inputs, weight)
        # Over the whole row, though a quarter of it is for nothing: on a slice of each row the
        # transcendental kernels are not vectorised and take four times as long.
        gates = logits.sigmoid()[..., : 3 * size]
        candidate = logits[..., 3 * size :].contiguous().tanh()
        i, f, o = gates.split(size, dim=-1)
        new_c = torch.addcmul(f * c, i, candidate)
        squashed = new_c.tanh()
        return o * squashed, new_c, gates, candidate, squashed

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        joined, c, weight, _ = inputs
        _, _, gates, candidate, squashed = output
        ctx.mark_non_differentiable(gates, candidate, squashed)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(joined, c, weight, gates, candidate, squashed)

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor | None, grad_c: Tensor | None, *_: Any) -> Any:
        if torch.is_grad_enabled():  # create_graph=True; once_differentiable can miss it
            raise RuntimeError(
                "the network of a rule can be differentiated once only: use backward() or "
                "torch.autograd.grad without create_graph"
            )
        joined, c, weight, gates, candidate, squashed = ctx.saved_tensors
        if grad_h is None and grad_c is None:
            return None, None, None, None
        grad_h = torch.zeros_like(c) if grad_h is None else grad_h
        i, f, o = gates.split(c.shape[-1], dim=-1)
        total_c = grad_h * o * (1 - squashed * squashed)
        if grad_c is not None:
            total_c = total_c + grad_c
        by_gate = torch.cat([total_c * candidate, total_c * c, grad_h * squashed], dim=-1)
        grad_logits = torch.cat(
            [by_gate * (gates * (1 - gates)), total_c * i * (1 - candidate * candidate)], dim=-1
        )
        needs = ctx.needs_input_grad
        return (
            grad_logits @ weight.t() if needs[0] else None,
            total_c * f if needs[1] else None,
            joined.t() @ grad_logits if needs[2] else None,
            grad_logits.sum(0) if needs[3] else None,
        )


def record_gates(record: dict[str, Tensor], name: str, values: Tensor) -> None:
    """Note a cell's gates i, f, o, `[N, 3 * hidden_size]` as the cell returned them, by name."""
    i, f, o = values.chunk(3, dim=-1)
    record.update({f"{name}_input": i, f"{name}_forget": f, f"{name}_output": o})
