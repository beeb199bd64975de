"""Learning rates and weight decays of tensors, on their device and without waiting for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from learned_opt.backends.triton.table import Upload


class Rates:
    """Gathers the options of parameter groups for a list of tensors."""

    def __init__(self) -> None:
        self._places = Upload()

    def get(self, groups: Sequence[Mapping[str, Any]], device: torch.device) -> Tensor:
        """Learning rate, and learning rate times weight decay, `[n, 2]` in float64.

        Args:
            groups: the parameter group of each tensor, `n` of them.
            device: of the tensors.
        """
        distinct = {id(group): group for group in groups}
        order = {key: place for place, key in enumerate(distinct)}
        places = tuple(order[id(group)] for group in groups)
        rows = torch.stack([_row(group, device) for group in distinct.values()])
        if len(distinct) == 1:
            return rows.expand(len(groups), 2)
        index = self._places.get((places, device), lambda: np.array(places), device)
        return rows[index]


def _row(group: Mapping[str, Any], device: torch.device) -> Tensor:
    lr = _number(group["lr"], device)
    return torch.stack([lr, lr * _number(group["weight_decay"], device)])


def _number(value: float | Tensor, device: torch.device) -> Tensor:
    if isinstance(value, Tensor) and value.device == device:
        return value.detach().to(torch.float64).reshape(())
    # A fill, not a copy from the host: that would wait, and no CUDA graph could capture it.
    return torch.full((), float(value), dtype=torch.float64, device=device)
