"""Estimators of the meta-gradient by name. A new one is one file beside this and one row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from learned_opt.registry import create
from meta_train.estimators.base import Estimate, Estimator, MetaObjective, combine
from meta_train.estimators.es import EvolutionStrategies
from meta_train.estimators.first_order import FirstOrder
from meta_train.estimators.full import FullBackprop
from meta_train.estimators.implicit import ImplicitGradient
from meta_train.estimators.pes import PersistentES
from meta_train.estimators.reptile import Reptile
from meta_train.estimators.truncated import TruncatedBackprop

__all__ = [
    "Estimate",
    "Estimator",
    "MetaObjective",
    "combine",
    "create_estimator",
    "list_estimators",
]

ESTIMATORS: Mapping[str, Callable[..., Estimator]] = MappingProxyType(
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
    """Names of all estimators."""
    return list(ESTIMATORS)


def create_estimator(name: str, **settings: Any) -> Estimator:
    """Build an estimator.

    Args:
        name: one of `list_estimators()`.
        **settings: the keyword arguments of the estimator's class.

    Raises:
        ValueError: an unknown name or setting, or a value that the estimator refuses.
    """
    return create("estimator", name, ESTIMATORS, settings)
