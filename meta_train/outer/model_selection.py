"""Model selection: keeps the average with the lowest validation loss, and counts patience."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from meta_train.inner.meta_parameters import MetaParameters
from meta_train.runtime.checks import check_at_least, check_not_negative


@dataclass(frozen=True)
class ModelSelectionSettings:
    """Settings of validation.

    Raises:
        ValueError: names the setting and its value.
    """

    validate_every: int = 50
    """Outer steps between validations. The average with the lowest validation loss is kept."""

    patience: int = 0
    """Stop after this number of validations in a row without a new best (0: never)."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_at_least(1, validate_every=self.validate_every)
        check_not_negative(patience=self.patience)


class ModelSelection:
    """The best of the averages that were validated.

    Args:
        average: the first candidate; copied.
        patience: see `ModelSelectionSettings`.

    Attributes:
        best: the best average so far.
        best_value: its validation loss; infinite before the first finite one.
        validated_at: outer step of the last validation; -1 before the first.
        validations_without_best: validations since the last new best.
    """

    def __init__(self, average: MetaParameters, patience: int) -> None:
        self.best = copy.deepcopy(average)
        self.best_value = math.inf
        self.validated_at = -1
        self.validations_without_best = 0
        self.patience = patience

    @property
    def patience_is_over(self) -> bool:
        """Whether meta-training should stop."""
        return 0 < self.patience <= self.validations_without_best

    def update(self, average: MetaParameters, value: float, outer_step: int) -> None:
        """Take note of a validation; a NaN never becomes the best.

        Args:
            average: was validated.
            value: its validation loss.
            outer_step: when.
        """
        self.validated_at = outer_step
        self.validations_without_best += 1
        if value < self.best_value or not math.isfinite(self.best_value):
            self.best_value = value
            self.validations_without_best = 0
            self.best.load_state_dict(average.state_dict())

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state as tensors and JSON-able facts."""
        facts = {
            "best_value": self.best_value if math.isfinite(self.best_value) else None,
            "validated_at": self.validated_at,
            "validations_without_best": self.validations_without_best,
        }
        return self.best.state_dict(), facts

    def load_state_dict(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.best.load_state_dict(tensors)
        self.best_value = math.inf if facts["best_value"] is None else facts["best_value"]
        self.validated_at = facts["validated_at"]
        self.validations_without_best = facts["validations_without_best"]
