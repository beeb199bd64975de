"""The base of estimators that train only the initialisation.

They read only where inner training ends, not the steps. So they take any rule and the memory of one
step, but give no gradient of the rule's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from meta_train.estimators.base import Estimator
from meta_train.inner.meta_parameters import MetaParameters


class InitializationOnly(Estimator):
    """Estimates the gradient of the learned initialisation alone.

    Args:
        freeze_rule: leave the rule's weights unchanged. Without it, a rule with weights is refused.
    """

    second_order: ClassVar[bool | None] = False

    def __init__(self, *, freeze_rule: bool = False) -> None:
        self.freeze_rule = freeze_rule

    def check(self, meta_parameters: MetaParameters) -> None:
        """See `Estimator`.

        Raises:
            ValueError: no initialisation is learned, or the rule has weights that would not be
                trained.
        """
        name = type(self).__name__
        if not meta_parameters.learns_initialization:
            raise ValueError(f"{name} needs a learned initialisation: it trains nothing else")
        if list(meta_parameters.rule.parameters()) and not self.freeze_rule:
            raise ValueError(
                f"{name} does not train the weights of rule {type(meta_parameters.rule).__name__}: "
                "set freeze_rule=True to leave them as they are, or take another estimator"
            )

    def gradients(
        self, meta_parameters: MetaParameters, by_name: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """Return one gradient for each meta-parameter, zero for the rule's weights.

        Args:
            meta_parameters: the meta-parameters.
            by_name: gradients of the initialisation by parameter name.
        """
        found = {f"values.{k}": by_name[name] for k, name in enumerate(meta_parameters.names)}
        return [
            found[name].to(value) if name in found else torch.zeros_like(value)
            for name, value in meta_parameters.named_parameters()
        ]
