"""Settings of meta-training: the settings of its parts in one flat list."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch

from learned_opt.registry import look_up
from meta_train.estimators import ESTIMATORS
from meta_train.estimators.settings import EstimatorSettings
from meta_train.inner.settings import InnerSettings
from meta_train.outer.checkpoint import CheckpointSettings
from meta_train.outer.meta_optimizer import MetaOptimizerSettings
from meta_train.outer.model_selection import ModelSelectionSettings
from meta_train.outer.tensorboard import LoggingSettings
from meta_train.runtime.checks import check_at_least, check_positive, make_plain
from meta_train.runtime.setting_names import suggest_names

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "float64": torch.float64}
)

MAY_CHANGE = frozenset(
    {
        *("outer_steps", "max_minutes", "patience", "max_consecutive_skips"),
        *("checkpoint_every", "keep_checkpoints", "gates_every"),
    }
)
"""Settings that may differ when a run is resumed."""

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "window": "truncation_length",
        "averaging": "ema_decay",
        "lr_end": "final_lr_fraction",
        "outlier": "outlier_factor",
        "clip": "grad_clip_norm",
        "max_skipped": "max_consecutive_skips",
        "unit_spread": "param_rescale_range",
        "loss_spread": "loss_rescale_range",
    }
)
"""Former names of settings, and their present names."""


# A dataclass lists the fields of its last base first. The modules of these classes do not postpone
# annotations: jsonargparse looks for the types of inherited fields in this module.
@suggest_names(RENAMED)
@dataclass(frozen=True)
class TrainSettings(
    LoggingSettings,
    CheckpointSettings,
    ModelSelectionSettings,
    MetaOptimizerSettings,
    InnerSettings,
    EstimatorSettings,
):
    """Settings of meta-training; each part of the outer loop reads its own base class.

    Examples:
        >>> settings = TrainSettings(estimator="full", horizons=(20,), outer_steps=100)

    Raises:
        ValueError: names the setting and its value.
        TypeError: an unknown setting; the message gives the nearest one.
    """

    max_minutes: float = 5.0
    """Time limit in minutes."""

    max_consecutive_skips: int = 50
    """Stop with an error after this number of skipped outer steps in a row."""

    dtype: Literal["float32", "float64"] = "float32"
    """Data type of inner training and of the rule."""

    seed: int = 0
    """Random seed of problems, batches and all other draws of meta-training. Two runs of one seed
    are equal if their rules begin with equal weights: the command line seeds those, too; a script
    calls torch.manual_seed before create_rule. A loader as data is read with seeds of its own, so
    that its order is the same each time; only a sampler of one's own must seed itself."""

    def __post_init__(self) -> None:
        """Check the values, each part its own. Numbers become Python's."""
        make_plain(self)
        for part in TrainSettings.__bases__:
            part.__post_init__(self)  # type: ignore[attr-defined]
        check_positive(max_minutes=self.max_minutes)
        check_at_least(1, max_consecutive_skips=self.max_consecutive_skips)
        look_up("dtype", self.dtype, DTYPES)
        if self.planned_horizons().shortest() == 0:
            self._check_no_steps()

    def _check_no_steps(self) -> None:
        able = [name for name, estimator in ESTIMATORS.items() if estimator.allows_zero_steps]
        if self.estimator not in able or self.objective_data == "training" or self.imitate:
            raise ValueError(
                f"a horizon of 0 needs an estimator of {', '.join(able)}, objective_data fresh or "
                f"validation, and no rule to imitate; got {self.estimator!r}, "
                f"{self.objective_data!r}, imitate={self.imitate!r}"
            )

    def fixed_on_resume(self) -> dict[str, Any]:
        """The settings by name that a resumed run must share.

        `fused_rule` is one of them only where it is true, as in checkpoints from before it.
        """
        free = MAY_CHANGE if self.fused_rule else MAY_CHANGE | {"fused_rule"}
        return {name: value for name, value in asdict(self).items() if name not in free}
