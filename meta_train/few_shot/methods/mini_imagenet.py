"""The methods on miniImageNet: what papers set otherwise there, and their figures.

The network of these figures is conv4 with 32 or 64 channels. A method without an entry has its
settings of Omniglot, and no figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from meta_train.few_shot.methods.spec import PublishedFigures

_MAML = {"inner_lr": 0.01, "train_steps": 5, "test_steps": 10, "meta_batch": 4}
"""The paper takes a meta-batch of 2 in 5-shot."""

OVERRIDES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        **dict.fromkeys(("maml", "fomaml", "maml-further", "anil"), _MAML),
        "reptile": {"train_steps": 8, "train_shots": 15},
    }
)
"""Changes of a method's settings on Omniglot, by name."""


def _figures(
    one_shot: tuple[float, float | None], five_shots: tuple[float, float | None] | None = None
) -> PublishedFigures:
    found = {(5, 1): one_shot}
    return found if five_shots is None else {**found, (5, 5): five_shots}


PUBLISHED: Mapping[str, PublishedFigures] = MappingProxyType(
    {
        "maml": _figures((48.7, 1.84), (63.11, 0.92)),
        "fomaml": _figures((48.07, 1.75), (63.15, 0.91)),
        "reptile": _figures((49.97, 0.32), (65.99, 0.58)),
        "anil": _figures((46.7, None), (61.5, None)),
        "imaml": _figures((49.3, 1.88)),  # with Hessian-free inner training, not gradient descent
        "meta-sgd": _figures((50.47, 1.87), (64.03, 0.94)),
        "meta-lstm": _figures((43.44, 0.77), (60.6, 0.71)),
        # As Ravi & Larochelle 2017 measured it on their splits.
        "matching": _figures((43.4, 0.78), (51.09, 0.71)),
        "prototypical": _figures((49.42, 0.78), (68.2, 0.66)),
        "relation": _figures((50.44, 0.82), (65.32, 0.7)),
    }
)
"""Accuracies of the papers, by name, then by (ways, shots)."""
