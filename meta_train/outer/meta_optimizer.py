"""From meta-gradients to meta-parameters: schedule, clipping, outliers, averaging."""

from __future__ import annotations

import copy
import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from meta_train.inner.meta_parameters import MetaParameters

if TYPE_CHECKING:
    from meta_train.outer.settings import TrainSettings

WARMUP = 20
"""Outer steps over which the rate rises."""

SCHEDULES: Mapping[str, Callable[[float, float], float]] = MappingProxyType(
    {
        "cosine": lambda gone, end: end + (1 - end) * (1 + math.cos(math.pi * gone)) / 2,
        "linear": lambda gone, end: 1 + (end - 1) * gone,
        "exponential": lambda gone, end: max(end, 1e-6) ** gone,
        "constant": lambda gone, end: 1.0,
    }
)
"""(share of the outer steps that is gone, last rate as a share of the first) to a factor."""

META_OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = MappingProxyType(
    {
        "adam": lambda weights, lr: torch.optim.Adam(weights, lr, (0.9, 0.99)),
        "adamw": lambda weights, lr: torch.optim.AdamW(weights, lr, (0.9, 0.99)),
        "rmsprop": lambda weights, lr: torch.optim.RMSprop(weights, lr),
        "sgd": lambda weights, lr: torch.optim.SGD(weights, lr),
    }
)


class MetaOptimizer:
    """Takes outer steps.

    Args:
        meta_parameters: is changed in place.
        settings: see `TrainSettings`.

    Attributes:
        average: a moving average of the meta-parameters.
        skipped: outer steps whose gradient was not finite, an outlier, or of no run at all.
        skipped_in_a_row: those since the last step that was taken.
    """

    def __init__(self, meta_parameters: MetaParameters, settings: TrainSettings) -> None:
        self.meta_parameters = meta_parameters
        self.settings = settings
        self.average = copy.deepcopy(meta_parameters).requires_grad_(False)
        make = META_OPTIMIZERS[settings.meta_optimizer]
        self.optimizer = make(list(meta_parameters.parameters()), settings.lr)
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.recent_norms: deque[float] = deque(maxlen=41)

    def step(self, gradients: Sequence[Tensor], outer_step: int, *, useful: bool = True) -> float:
        """Take one outer step, or skip it.

        Args:
            gradients: one per meta-parameter.
            outer_step: from 1.
            useful: some run has given a gradient; otherwise they are zeros that mean nothing.

        Returns:
            The norm of the gradient before clipping.
        """
        settings = self.settings
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not useful or self._is_outlier(norm):
            self.skipped += 1
            self.skipped_in_a_row += 1
        else:
            self.skipped_in_a_row = 0
            shrink = min(1.0, settings.grad_clip_norm / max(norm, 1e-12))
            for weight, gradient in zip(self.meta_parameters.parameters(), gradients, strict=True):
                weight.grad = gradient * shrink
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(outer_step)
            self.optimizer.step()
        decay = min(settings.ema_decay, outer_step / (outer_step + 10))
        with torch.no_grad():
            for mean, weight in zip(
                self.average.parameters(), self.meta_parameters.parameters(), strict=True
            ):
                mean.lerp_(weight, 1 - decay)
        return norm

    def _is_outlier(self, norm: float) -> bool:
        if not math.isfinite(norm):
            return True
        self.recent_norms.append(norm)
        return norm > self.settings.outlier_factor * statistics.median(self.recent_norms)

    def rate(self, outer_step: int) -> float:
        """The meta-optimizer's rate in an outer step, from 1."""
        settings = self.settings
        gone = min(1.0, outer_step / max(settings.outer_steps, 1))
        factor = SCHEDULES[settings.schedule](gone, settings.final_lr_fraction)
        return settings.lr * min(1.0, outer_step / WARMUP) * factor

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON-able facts that `load_state_dict` goes on from."""
        tensors = {f"average/{key}": value for key, value in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer/{index}/{key}"] = torch.as_tensor(value)
        facts = {
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "recent_norms": list(self.recent_norms),
        }
        return tensors, facts

    def load_state_dict(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        average = {}
        saved = self.optimizer.state_dict()
        for name, value in tensors.items():
            part, rest = name.split("/", 1)
            if part == "average":
                average[rest] = value
            else:
                index, key = rest.split("/")
                saved["state"].setdefault(int(index), {})[key] = value
        self.average.load_state_dict(average)
        self.optimizer.load_state_dict(saved)
        self.skipped = facts["skipped"]
        self.skipped_in_a_row = facts["skipped_in_a_row"]
        self.recent_norms.extend(facts["recent_norms"])
