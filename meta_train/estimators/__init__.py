"""Estimators of the meta-gradient by name. A new one is one file here and one row below."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from learned_opt.registry import create
from meta_train.estimators.base import (
    Estimate,
    Estimator,
    MetaGradient,
    MetaObjective,
    combine,
)
from meta_train.estimators.es import EvolutionStrategies
from meta_train.estimators.first_order import FirstOrder
from meta_train.estimators.full import FullBackprop
from meta_train.estimators.implicit import ImplicitGradient
from meta_train.estimators.pes import PersistentES
from meta_train.estimators.reptile import Reptile
from meta_train.estimators.truncated import TruncatedBackprop

__all__ = [
    "ESTIMATORS",
    "Estimate",
    "Estimator",
    "MetaGradient",
    "MetaObjective",
    "combine",
    "create_estimator",
    "list_estimators",
]

ESTIMATORS: Mapping[str, type[Estimator]] = MappingProxyType(
    {
        "full": FullBackprop,
        "truncated": TruncatedBackprop,
        "first-order": FirstOrder,
        "reptile": Reptile,
        "implicit": ImplicitGradient,
        "es": EvolutionStrategies,
        "pes": PersistentES,
    }
)


def list_estimators() -> list[str]:
    """Return the names of all estimators."""
    return list(ESTIMATORS)


def create_estimator(name: str, **settings: Any) -> Estimator:
    """Create an estimator.

    Examples:
        estimator = create_estimator("full", checkpoint_steps=10)

    Args:
        name: one of `list_estimators()`.
        **settings: keyword arguments of the estimator's class.

    Raises:
        ValueError: an unknown name or setting, or a value out of range.
    """
    if "segment" in settings:
        raise ValueError("estimator setting 'segment' is now called 'checkpoint_steps'")
    return create("estimator", name, ESTIMATORS, settings)
