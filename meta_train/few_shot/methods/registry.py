"""The few-shot methods by name: one row per method, with its paper.

A row gives the paper, then initialisation x rule x adapted parameters x estimator as changes of a
preset (`meta_train.few_shot.methods.presets`). Rows stand by kind in `initializations`,
`learned_rules`, `embeddings` and `readers`; a new method is one row in one of them.

Published figures are accuracies on Omniglot in percent, with the +- of the paper (MAML's is a 95%
interval over test tasks; not all papers define theirs). Networks and protocols differ in detail.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from learned_opt.registry import look_up
from meta_train.few_shot.methods.embeddings import BASELINES, HEADS, MARGINS
from meta_train.few_shot.methods.initializations import (
    MAML_FAMILY,
    OTHER_ESTIMATORS_AND_RATES,
    REPTILE_FAMILY,
)
from meta_train.few_shot.methods.learned_rules import LEARNED_RULES
from meta_train.few_shot.methods.readers import READERS
from meta_train.few_shot.methods.spec import FewShotMethod

KINDS: Mapping[str, Mapping[str, FewShotMethod]] = MappingProxyType(
    {
        "MAML and variants": MAML_FAMILY,
        "Reptile": REPTILE_FAMILY,
        "other estimators and learning rates": OTHER_ESTIMATORS_AND_RATES,
        "learned update rules": LEARNED_RULES,
        "heads on an embedding": HEADS,
        "losses with a margin": MARGINS,
        "networks that read the training set": READERS,
        "baselines": BASELINES,
    }
)
"""The methods by kind; pictures group them so."""

METHODS: Mapping[str, FewShotMethod] = MappingProxyType(
    {name: method for kind in KINDS.values() for name, method in kind.items()}
)


def list_methods(*, sine: bool = False) -> list[str]:
    """Names of all methods, in the order of the registry.

    Args:
        sine: only those that fit sine curves.
    """
    return [name for name, method in METHODS.items() if not sine or method.sine is not None]


def get_method(name: str) -> FewShotMethod:
    """The method of this name.

    Raises:
        ValueError: an unknown name; the message gives the nearest one.

    Examples:
        >>> get_method("maml").on_omniglot(ways=20, shots=1).inner_lr
        0.1
    """
    return look_up("few-shot method", name, METHODS)
