"""Settings of the meta-gradient: its estimator and its objective."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from learned_opt.registry import look_up
from meta_train.estimators import ESTIMATORS
from meta_train.estimators.memory_budget import read_budget
from meta_train.estimators.objectives import OBJECTIVES

ObjectiveData = Literal["training", "fresh", "validation", "full"]


@dataclass(frozen=True)
class EstimatorSettings:
    """Settings of the meta-gradient.

    Raises:
        ValueError: names the setting and its value.
    """

    estimator: str = "truncated"
    """Estimator of the meta-gradient: full, truncated, first-order, reptile, implicit, es or
    pes."""

    estimator_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the estimator's class (see meta_train/estimators/)."""

    memory: str = "plain"
    """For the estimators full and first-order: "plain" keeps the graph of all steps,
    "checkpointing" recomputes parts of it, "truncated" and "pes" differentiate windows. A budget
    per process, such as "500MiB", selects the first of these that fits (see
    meta_train/estimators/memory_budget.py)."""

    objective: str = "sqrt"
    """Meta-objective: sum, sqrt, log, last, log-last or log-tail (see
    meta_train/estimators/objectives.py)."""

    objective_data: ObjectiveData = "training"
    """Data of the meta-objective: the next "training" batch, a "fresh" batch of the same data,
    "validation" data that inner training does not see, or the "full" training data of the
    problem. Rules that keep an average are evaluated at it on all but "training"."""

    def __post_init__(self) -> None:
        """Check the values."""
        look_up("estimator", self.estimator, ESTIMATORS)
        look_up("objective", self.objective, OBJECTIVES)
        look_up("objective_data", self.objective_data, dict.fromkeys(get_args(ObjectiveData)))
        read_budget(self.memory)
        if self.memory == "plain":
            return
        if not ESTIMATORS[self.estimator].has_memory_modes:
            able = [name for name, one in ESTIMATORS.items() if one.has_memory_modes]
            raise ValueError(
                f"memory={self.memory!r} needs estimator {' or '.join(able)}, got "
                f"{self.estimator!r}"
            )
        if self.estimator_settings:
            raise ValueError(
                f"memory={self.memory!r} chooses the estimator's settings itself: leave out "
                f"estimator_settings={self.estimator_settings}"
            )
