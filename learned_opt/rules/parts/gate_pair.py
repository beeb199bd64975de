"""A forget and an input gate, with which a cell of an LSTM updates a parameter.

Ravi & Larochelle 2017, "Optimization as a model for few-shot learning" (ICLR), equations 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class GatePair(nn.Module):
    """A forget and an input gate that read features, the cell's value and their own last values.

    f = sigmoid(W_F [features, cell, f_last] + b_F), i likewise (Ravi & Larochelle 2017, eq. 3-4).
    Initially f is near 1 and i near 0: slow gradient descent.

    Args:
        features: number of features per coordinate.
        recurrence: the last value that a gate reads: "value" (the paper) or "logit" (before the
            sigmoid, as in the released code).
        init_range: initial weights are uniform in +-init_range.
        forget_bias: bounds of the uniform distribution of the initial b_F.
        input_bias: the same for b_I.

    Raises:
        ValueError: an unknown `recurrence`.
    """

    def __init__(
        self,
        features: int,
        recurrence: str,
        init_range: float,
        forget_bias: Sequence[float],
        input_bias: Sequence[float],
    ) -> None:
        super().__init__()
        if recurrence not in ("value", "logit"):
            raise ValueError(f"recurrence must be 'value' or 'logit', got {recurrence!r}")
        self.recurrence = recurrence
        weight = torch.empty(features + 2, 2, dtype=torch.float32)
        # Two columns, f and i; the last row is the weight of the gate's own last value.
        self.weight = nn.Parameter(weight.uniform_(-init_range, init_range))
        self.bias = nn.Parameter(torch.stack([_uniform(*forget_bias), _uniform(*input_bias)]))

    def forward(
        self, features: Tensor, cell: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute both gates.

        Args:
            features: `[N, features]`.
            cell: `[N]`, the value that the gates act on.
            last: `[N, 2]`, from the last call.

        Returns:
            f `[N]`, f - 1 `[N]` (exact where f rounds to 1), i `[N]`, and `last` for the next call.
        """
        of_features, of_cell, of_last = self.weight.split([len(self.weight) - 2, 1, 1])
        logits = torch.addmm(self.bias.unsqueeze(-1), of_features.t(), features.mT)
        # Not joined with the features: to copy those takes longer than these products.
        logits = logits + of_cell.t() * cell + last.mT * of_last.t()
        gates = logits.sigmoid()
        f, i = gates
        shrink = -torch.sigmoid(-logits[0])
        return f, shrink, i, (gates if self.recurrence == "value" else logits).mT


def _uniform(low: float, high: float) -> Tensor:
    return torch.empty((), dtype=torch.float32).uniform_(low, high)
