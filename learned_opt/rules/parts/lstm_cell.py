"""One LSTM cell for millions of coordinates: one matrix product, one hand-written derivative.

Every coordinate of the optimizee is a row of the batch, so the cell, not the optimizee, takes most
of the time and memory of an unroll. Inside, rows are columns: each unit's numbers lie side by side,
and gates are whole blocks of memory. As one `autograd.Function` it saves only the tensors that its
backward pass reads, and runs about a third of the operations that autograd would record. Double
backward is not supported: meta-training differentiates a rule's network once (the optimizee twice).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from learned_opt.rules.parts.lstm_cell_in_c import (
    NO_DOUBLE_BACKWARD,
    LSTMCellInC,
    fits_lstm_cell,
)

BLOCK = 4096
"""Rows computed at a time on a CPU, so that they stay in its cache. With 20 units on one thread,
112,000 rows at once take 4.2 times as long as in blocks, and 1.8 times with the derivative."""


class LSTMCell(nn.Module):
    """A long short-term memory cell (Hochreiter & Schmidhuber 1997, with forget gate).

    i, f, o = sigmoid(.), z = tanh(.) of [x, h] W + b;  c' = f c + i z;  h' = o tanh(c').

    Args:
        input_size: features per row.
        hidden_size: units.
        forget_bias: initial bias of the forget gate; the others start at 0.
        init_range: initial weights are uniform in +-init_range; by default 1 / sqrt(hidden_size).

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

    def forward(
        self,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        *,
        idle: Tensor | None = None,
        with_gates: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Step `N` rows.

        Args:
            x: `[N, input_size]`.
            h: `[N, hidden_size]`.
            c: `[N, hidden_size]`.
            idle: `[N]` bool: rows whose new h and c are zero whatever they read. No derivative
                flows through them.
            with_gates: also return the gates; without them, C takes the step and its derivative.

        Returns:
            New h, new c, and the gates i, f, o side by side, `[N, 3 * hidden_size]`, or an empty
            tensor. No derivative flows through the gates.
        """
        x, h, c = x.mT, h.mT, c.mT
        if not with_gates and fits_lstm_cell(x, h, c, self.weight, self.bias, idle):
            # With and without derivatives: a step that is computed again must be the same.
            new_h, new_c = LSTMCellInC.apply(  # type: ignore[no-untyped-call]
                x, h, c, self.weight, self.bias, idle
            )
            return new_h.mT, new_c.mT, new_h.new_empty(0)
        if not torch.is_grad_enabled():  # then autograd.Function would only cost time
            wanted = 3 if with_gates else 2
            new_h, new_c, *gates = _by_blocks(
                lambda x, h, c: _cell(torch.cat([x, h], dim=-2), c, self.weight, self.bias)[
                    :wanted
                ],
                *(x, h, c),
            )
            kept = gates[0].mT if with_gates else new_h.new_empty(0)
        else:
            new_h, new_c, columns, *_ = _LSTMCellFunction.apply(  # type: ignore[no-untyped-call]
                torch.cat([x, h], dim=-2), c, self.weight, self.bias
            )
            kept = columns.mT
        if idle is not None:
            new_h, new_c = new_h.masked_fill(idle, 0), new_c.masked_fill(idle, 0)
        return new_h.mT, new_c.mT, kept


def _cell(
    inputs: Tensor, c: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Step columns: `[K, N]`, `[H, N]` to h and c, `[H, N]`, gates, candidate and tanh(c)."""
    size = c.shape[-2]
    logits = torch.addmm(bias.unsqueeze(-1), weight.t(), inputs)
    gates = logits[: 3 * size].sigmoid()
    candidate = logits[3 * size :].tanh()
    i, f, o = gates.split(size, dim=-2)
    new_c = torch.addcmul(f * c, i, candidate)
    squashed = new_c.tanh()
    return o * squashed, new_c, gates, candidate, squashed


def _by_blocks(
    function: Callable[..., tuple[Tensor, ...]], *arguments: Tensor
) -> tuple[Tensor, ...]:
    """`function(*arguments)` of tensors `[..., N]`, by blocks of columns where that is faster."""
    first = arguments[0]
    count = first.shape[-1]
    if count <= BLOCK or first.device.type != "cpu" or torch.compiler.is_compiling():
        return function(*arguments)
    results: list[Tensor] = []
    for columns in (slice(begin, begin + BLOCK) for begin in range(0, count, BLOCK)):
        parts = function(*(argument[..., columns] for argument in arguments))
        if not results:  # made from a part, so that under vmap they have its batch axis
            results = [part.new_empty((*part.shape[:-1], count)) for part in parts]
        for result, part in zip(results, parts, strict=True):
            result[..., columns] = part
    return tuple(results)


class _LSTMCellFunction(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        inputs: Tensor, c: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return _by_blocks(  # type: ignore[return-value]
            lambda inputs, c: _cell(inputs, c, weight, bias), inputs, c
        )

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
            raise RuntimeError(NO_DOUBLE_BACKWARD)
        joined, c, weight, gates, candidate, squashed = ctx.saved_tensors
        if grad_h is None and grad_c is None:
            return None, None, None, None
        grad_h = torch.zeros_like(c) if grad_h is None else grad_h
        if grad_c is None:
            grad_c = torch.zeros_like(c)
        grad_logits, by_c = _by_blocks(
            _cell_backward, grad_h, grad_c, c, gates, candidate, squashed
        )
        needs = ctx.needs_input_grad
        return (
            weight @ grad_logits if needs[0] else None,
            by_c if needs[1] else None,
            joined @ grad_logits.t() if needs[2] else None,
            grad_logits.sum(-1) if needs[3] else None,
        )


def _cell_backward(
    grad_h: Tensor, grad_c: Tensor, c: Tensor, gates: Tensor, candidate: Tensor, squashed: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to the logits, `[4 H, N]`, and to c."""
    i, f, o = gates.split(c.shape[-2], dim=-2)
    total_c = grad_h * o * (1 - squashed * squashed) + grad_c
    by_gate = torch.cat([total_c * candidate, total_c * c, grad_h * squashed], dim=-2)
    grad_logits = torch.cat(
        [by_gate * (gates * (1 - gates)), total_c * i * (1 - candidate * candidate)], dim=-2
    )
    return grad_logits, total_c * f


def record_gates(record: dict[str, Tensor], name: str, values: Tensor) -> None:
    """Add a cell's gates i, f, o, `[N, 3 * hidden_size]` as the cell returns them, to `record`."""
    i, f, o = values.chunk(3, dim=-1)
    record.update({f"{name}_input": i, f"{name}_forget": f, f"{name}_output": o})
