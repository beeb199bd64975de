"""The contract of a validation of meta-parameters, which selects the weights to keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from learned_opt.checks.arguments import shown
from meta_train.inner.meta_parameters import MetaParameters

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Validator(ABC):
    """Computes a validation loss of meta-parameters, the same way every time."""

    @abstractmethod
    def __call__(self, meta_parameters: MetaParameters) -> float:
        """Compute the validation loss; lower is better."""

    @abstractmethod
    def describe(self) -> dict[str, Any] | None:
        """JSON-able facts that a resumed run must share, so that its losses are comparable.

        None if nothing is known.
        """

    @abstractmethod
    def figure(self) -> Figure | None:
        """Curves of the last validation for TensorBoard; None if there are none."""


class FunctionValidator(Validator):
    """A plain function as a validator.

    Args:
        function: returns the validation loss of meta-parameters.
    """

    def __init__(self, function: Callable[[MetaParameters], float]) -> None:
        self.function = function

    def __call__(self, meta_parameters: MetaParameters) -> float:
        """Call the function."""
        return self.function(meta_parameters)

    def describe(self) -> None:
        """Nothing is known of a function."""
        return None

    def figure(self) -> None:
        """There are no curves."""
        return None


def as_validator(
    validate: Validator | Callable[[MetaParameters], float] | None,
) -> Validator | None:
    """A validator as it is, a function as a validator, or None.

    Raises:
        ValueError: none of these.
    """
    if validate is None or isinstance(validate, Validator):
        return validate
    if not callable(validate):
        raise ValueError(f"validate must be a function or a Validator, got {shown(validate)}")
    return FunctionValidator(validate)
