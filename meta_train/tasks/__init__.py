"""Families of tasks by name. A new one is one file beside this one and one row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from learned_opt.registry import create
from meta_train.tasks.autoencoder import Autoencoder
from meta_train.tasks.base import Batch, Loss, Problem, SampledTask, Task, TaskFamily, Tensors
from meta_train.tasks.char_rnn import CharRNN
from meta_train.tasks.char_transformer import CharTransformer
from meta_train.tasks.classic_functions import TestFunctions
from meta_train.tasks.conv import Conv
from meta_train.tasks.digits import DigitsMLP
from meta_train.tasks.episodes.omniglot import OmniglotClasses, OmniglotEpisodes
from meta_train.tasks.episodes.sine import Sine
from meta_train.tasks.logistic_regression import LogisticRegression
from meta_train.tasks.mixture import Mixture
from meta_train.tasks.module_task import ModuleTask
from meta_train.tasks.quadratic import Quadratic
from meta_train.tasks.random_mlp import RandomMLP

__all__ = [
    "Batch",
    "TaskFamily",
    "Loss",
    "SampledTask",
    "Mixture",
    "ModuleTask",
    "Problem",
    "Task",
    "Tensors",
    "create_task",
    "list_tasks",
]


def create_mixture(
    *,
    families: Mapping[str, Mapping[str, Any]] | None = None,
    weights: Sequence[float] | None = None,
) -> Mixture:
    """Build a mixture from what a config file can hold.

    Args:
        families: settings of each family by its name, as in {"random-mlp": {"depth": [1, 2]}}. A
            setting "task" names the family where the key does not: one can then be there twice.
            By default all families that need no data of the user's and are not for few-shot
            learning, as they are.
        weights: see `Mixture`.

    Raises:
        ValueError: an unknown name or setting, or see `Mixture`.
    """
    if families is None:
        families = {name: {} for name in TASKS if name != "mixture" and name not in FEW_SHOT}
    made = {}
    for name, settings in families.items():
        own = dict(settings)
        made[name] = create_task(own.pop("task", name), **own)
    return Mixture(made, weights)


TASKS: Mapping[str, Callable[..., TaskFamily]] = MappingProxyType(
    {
        "digits-mlp": DigitsMLP,
        "quadratic": Quadratic,
        "test-functions": TestFunctions,
        "logistic-regression": LogisticRegression,
        "random-mlp": RandomMLP,
        "conv": Conv,
        "autoencoder": Autoencoder,
        "char-rnn": CharRNN,
        "char-transformer": CharTransformer,
        "mixture": create_mixture,
        "sine": Sine,
        "omniglot": OmniglotEpisodes,
        "omniglot-classes": OmniglotClasses,
    }
)

FEW_SHOT = frozenset({"sine", "omniglot", "omniglot-classes"})
"""Those whose problems are episodes, or prepare for them: no part of the mixture."""

NEED_DATA = frozenset({"omniglot", "omniglot-classes"})
"""Those that read files of the user's."""


def list_tasks() -> list[str]:
    """Names of all families that need no data of the user's."""
    return [name for name in TASKS if name not in NEED_DATA]


def create_task(name: str, **settings: Any) -> TaskFamily:
    """Build a family: a task, or a distribution of several.

    Args:
        name: one of `list_tasks()`.
        **settings: the keyword arguments of its class.

    Returns:
        A family; a `Task` where the class in the registry is one.

    Raises:
        ValueError: an unknown name or setting, or a value that the family refuses.
    """
    return create("task", name, TASKS, settings)
