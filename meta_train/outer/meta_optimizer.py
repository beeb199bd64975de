"""The meta-optimizer: learning-rate schedule, gradient clipping, outlier steps, moving average."""

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import AveragedModel

from learned_opt.registry import look_up
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.runtime.checks import check_fraction, check_not_negative, check_positive

WARMUP = 20
"""Outer steps of linear learning-rate warm-up."""

RECENT = 41
"""Gradient norms in the running median of the outlier test; odd, so the median is one of them."""

RAMP = 10
"""The averaging decay is at most t / (t + RAMP) in outer step t, so early averages forget fast."""

SCHEDULES: Mapping[str, Callable[[float, float], float]] = MappingProxyType(
    {
        "cosine": lambda progress, final: (
            final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
        ),
        "linear": lambda progress, final: 1 + (final - 1) * progress,
        "exponential": lambda progress, final: max(final, 1e-6) ** progress,
        "constant": lambda progress, final: 1.0,
    }
)
"""(completed fraction of the outer steps, final fraction) -> factor on the learning rate."""

META_OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = MappingProxyType(
    {
        "adam": lambda weights, lr: torch.optim.Adam(weights, lr, (0.9, 0.99)),
        "adamw": lambda weights, lr: torch.optim.AdamW(weights, lr, (0.9, 0.99)),
        "rmsprop": lambda weights, lr: torch.optim.RMSprop(weights, lr),
        "sgd": lambda weights, lr: torch.optim.SGD(weights, lr),
    }
)

STATES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "adam": frozenset({"step", "exp_avg", "exp_avg_sq"}),
        "adamw": frozenset({"step", "exp_avg", "exp_avg_sq"}),
        "rmsprop": frozenset({"step", "square_avg"}),
        "sgd": frozenset(),
    }
)
"""Names of the tensors that a meta-optimizer keeps for each weight."""


@dataclass(frozen=True)
class MetaOptimizerSettings:
    """Settings of the meta-optimizer.

    Raises:
        ValueError: names the setting and its value.
    """

    outer_steps: int = 300
    """Updates of the meta-parameters."""

    meta_optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    """Optimizer of the meta-parameters (torch.optim)."""

    lr: float = 5e-3
    """Learning rate of the meta-optimizer, after a warm-up of 20 outer steps."""

    final_lr_fraction: float = 0.05
    """Final learning rate as a fraction of `lr`."""

    schedule: Literal["cosine", "linear", "exponential", "constant"] = "cosine"
    """Learning-rate schedule from `lr` to the final learning rate."""

    grad_clip_norm: float = 1.0
    """Maximum norm of the meta-gradient; larger gradients are scaled down."""

    outlier_factor: float = 10.0
    """Skip the step if the gradient norm exceeds this multiple of its running median (of 41
    steps)."""

    ema_decay: float = 0.98
    """Decay of the exponential moving average of the meta-parameters. The average is validated and
    saved."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_not_negative(outer_steps=self.outer_steps)
        look_up("meta_optimizer", self.meta_optimizer, META_OPTIMIZERS)
        look_up("schedule", self.schedule, SCHEDULES)
        check_positive(
            lr=self.lr, grad_clip_norm=self.grad_clip_norm, outlier_factor=self.outlier_factor
        )
        check_fraction(final_lr_fraction=self.final_lr_fraction, ema_decay=self.ema_decay)


class MetaOptimizer:
    """Updates meta-parameters from meta-gradients, and keeps their moving average.

    Args:
        meta_parameters: the meta-parameters; changed in place.
        settings: see `MetaOptimizerSettings`.

    Attributes:
        skipped: outer steps without an update: the gradient was not finite, an outlier, or without
            any valid run.
        skipped_in_a_row: skipped outer steps since the last update.
        recent_norms: the last finite gradient norms, newest last.
    """

    def __init__(self, meta_parameters: MetaParameters, settings: MetaOptimizerSettings) -> None:
        self.meta_parameters = meta_parameters
        self.settings = settings
        make = META_OPTIMIZERS[settings.meta_optimizer]
        self.optimizer = make(list(meta_parameters.parameters()), settings.lr)
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.recent_norms: deque[float] = deque(maxlen=RECENT)
        self._averaged = AveragedModel(meta_parameters, multi_avg_fn=self._move_average)
        self._averaged.requires_grad_(False)
        self._averaged.update_parameters(meta_parameters)  # step 0: the initial values

    @property
    def average(self) -> MetaParameters:
        """The exponential moving average of the meta-parameters."""
        return cast(MetaParameters, self._averaged.module)

    def step(self, gradients: Sequence[Tensor], outer_step: int, *, useful: bool = True) -> float:
        """Update the meta-parameters and their average, or skip the update.

        Args:
            gradients: one per meta-parameter.
            outer_step: number of this step, from 1.
            useful: False if no run gave a valid gradient.

        Returns:
            The gradient norm before clipping.
        """
        total_norm = get_total_norm(gradients)
        norm = float(total_norm)
        if not useful or self._is_outlier(norm):
            self.skipped += 1
            self.skipped_in_a_row += 1
        else:
            self.skipped_in_a_row = 0
            weights = list(self.meta_parameters.parameters())
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient.clone()  # clipping works in place
            clip_grads_with_norm_(weights, self.settings.grad_clip_norm, total_norm)
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(outer_step)
            self.optimizer.step()
        self._averaged.update_parameters(self.meta_parameters)
        return norm

    def _is_outlier(self, norm: float) -> bool:
        if not math.isfinite(norm):
            return True
        self.recent_norms.append(norm)
        return norm > self.settings.outlier_factor * statistics.median(self.recent_norms)

    def _move_average(
        self, averages: Sequence[Tensor], weights: Sequence[Tensor], step: Tensor | int
    ) -> None:
        """Move the average in outer step `step`, from 1."""
        step = int(step)
        decay = min(self.settings.ema_decay, step / (step + RAMP))
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, 1 - decay)

    def learning_rate(self, outer_step: int) -> float:
        """The learning rate of an outer step.

        Args:
            outer_step: number of the step, from 1.
        """
        settings = self.settings
        progress = min(1.0, outer_step / max(settings.outer_steps, 1))
        factor = SCHEDULES[settings.schedule](progress, settings.final_lr_fraction)
        return settings.lr * min(1.0, outer_step / WARMUP) * factor

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state as tensors and JSON-able facts; the meta-parameters are not part of it."""
        tensors = {f"average/{key}": value for key, value in self._averaged.state_dict().items()}
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
        """Restore a state that `state_dict` returned.

        Raises:
            KeyError: a tensor is missing, or does not belong there.
        """
        average = {}
        moments: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            part, _, rest = name.partition("/")
            if part == "average":
                average[rest] = value
            else:
                index, _, key = rest.partition("/")
                moments.setdefault(index, {})[key] = value
        saved = self.optimizer.state_dict()
        known = [str(index) for index in saved["param_groups"][0]["params"]]
        for index, state in moments.items():
            if index not in known or state.keys() != STATES[self.settings.meta_optimizer]:
                raise KeyError(f"optimizer/{index}/{', '.join(sorted(state))}")
            saved["state"][int(index)] = state
        self._averaged.load_state_dict(average)
        self.optimizer.load_state_dict(saved)
        self.skipped = facts["skipped"]
        self.skipped_in_a_row = facts["skipped_in_a_row"]
        self.recent_norms = deque(facts["recent_norms"], maxlen=RECENT)
