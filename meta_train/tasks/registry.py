"""The registry of task families. A new family is one file in `families/` and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, overload

from learned_opt.registry import create, matching_names
from meta_train.tasks.base import TaskFamily
from meta_train.tasks.episodes.omniglot import OmniglotClasses, OmniglotEpisodes
from meta_train.tasks.episodes.sine import Sine
from meta_train.tasks.families.autoencoder import Autoencoder
from meta_train.tasks.families.char_recurrent import CharRecurrent
from meta_train.tasks.families.char_rnn import CharRNN
from meta_train.tasks.families.char_transformer import CharTransformer
from meta_train.tasks.families.classic_functions import TestFunctions
from meta_train.tasks.families.conv import Conv
from meta_train.tasks.families.digits import DigitsMLP
from meta_train.tasks.families.logistic_regression import LogisticRegression
from meta_train.tasks.families.mixture import Mixture
from meta_train.tasks.families.quadratic import Quadratic
from meta_train.tasks.families.random_mlp import RandomMLP
from meta_train.tasks.families.regression import Regression
from meta_train.tasks.families.varied import Varied
from meta_train.tasks.families.word_pairs import WordPairs


@dataclass(frozen=True)
class TaskEntry:
    """A row of the registry.

    Attributes:
        make: builds the family from its settings.
        description: one line for `list_tasks`.
        few_shot: for few-shot learning; not part of the default mixture.
        validation_only: to select rules on; not part of the default mixture.
        needs_files: reads files that neither this package nor its dependencies install.
    """

    make: Callable[..., TaskFamily]
    description: str
    few_shot: bool = False
    validation_only: bool = False
    needs_files: bool = False


def create_mixture(
    *,
    families: Mapping[str, Mapping[str, Any]] | None = None,
    weights: Sequence[float] | None = None,
) -> Mixture:
    """Build a mixture from plain data, as in a config file.

    Args:
        families: the settings of each family by its name: {"random-mlp": {"depth": [1, 2]}}. A
            setting "task" gives the registered name if the key is another one, so that a family can
            appear twice. The default is every registered family that is neither for few-shot
            learning nor for validation.
        weights: see `Mixture`.

    Raises:
        ValueError: an unknown name or setting, or see `Mixture`.
    """
    if families is None:
        families = {
            name: {}
            for name, entry in TASKS.items()
            if name != "mixture"
            and not (entry.few_shot or entry.validation_only or entry.needs_files)
        }
    made = {}
    for name, settings in families.items():
        own = dict(settings)
        made[name] = create_task(own.pop("task", name), **own)
    return Mixture(made, weights)


TASKS: Mapping[str, TaskEntry] = MappingProxyType(
    {
        "digits-mlp": TaskEntry(DigitsMLP, "One MLP on 8 x 8 handwritten digits"),
        "quadratic": TaskEntry(Quadratic, "Random quadratics |W x - y|^2 of 10 dimensions"),
        "test-functions": TaskEntry(
            TestFunctions, "Classic test functions (Rosenbrock, Ackley, ...) of random dimension"
        ),
        "logistic-regression": TaskEntry(
            LogisticRegression, "Linear models on digits and scikit-learn's tables"
        ),
        "random-mlp": TaskEntry(RandomMLP, "MLPs of random depth and width on small images"),
        "conv": TaskEntry(
            Conv, "Random convolutional networks with or without batch norm on small images"
        ),
        "autoencoder": TaskEntry(Autoencoder, "Random MLP autoencoders of small images"),
        "regression": TaskEntry(
            Regression, "Random functions fitted by small models, with and without noise"
        ),
        "word-pairs": TaskEntry(WordPairs, "Embeddings of a made-up language's words"),
        "char-recurrent": TaskEntry(
            CharRecurrent, "Recurrent networks in plain operations that predict the next character"
        ),
        "char-rnn": TaskEntry(CharRNN, "Random GRUs that predict the next character"),
        "char-transformer": TaskEntry(
            CharTransformer, "Random causal transformers that predict the next character"
        ),
        "varied": TaskEntry(
            Varied,
            "Sixteen fixed tasks unlike all others, to select rules on",
            validation_only=True,
        ),
        "mixture": TaskEntry(create_mixture, "A weighted mixture of the families above"),
        "sine": TaskEntry(Sine, "Few-shot regression of sine waves", few_shot=True),
        "omniglot": TaskEntry(
            OmniglotEpisodes,
            "N-way K-shot classification of Omniglot characters (needs its files)",
            few_shot=True,
            needs_files=True,
        ),
        "omniglot-classes": TaskEntry(
            OmniglotClasses,
            "Classification of all Omniglot characters at once (needs its files)",
            few_shot=True,
            needs_files=True,
        ),
    }
)


@overload
def list_tasks(
    filter: str = ..., *, with_description: Literal[False] = ..., with_files: bool = ...
) -> list[str]: ...
@overload
def list_tasks(
    filter: str = ..., *, with_description: Literal[True], with_files: bool = ...
) -> list[tuple[str, str]]: ...
def list_tasks(
    filter: str = "*", *, with_description: bool = False, with_files: bool = False
) -> list[str] | list[tuple[str, str]]:
    """List the names that `create_task` takes.

    Examples:
        >>> list_tasks("char-*")
        ['char-recurrent', 'char-rnn', 'char-transformer']

    Args:
        filter: a pattern with shell wildcards, such as "char-*".
        with_description: return (name, description) pairs.
        with_files: also list families that read files which the user must download (Omniglot).
    """
    found = {
        name: TASKS[name]
        for name in matching_names(TASKS, filter)
        if with_files or not TASKS[name].needs_files
    }
    if with_description:
        return [(name, entry.description) for name, entry in found.items()]
    return list(found)


def create_task(name: str, **settings: Any) -> TaskFamily:
    """Build a task, or a family of tasks, by name.

    Examples:
        >>> family = create_task("random-mlp", depth=(1, 2), data=["digits"])

    Args:
        name: one of `list_tasks(with_files=True)`.
        **settings: the keyword arguments of the family's class.

    Returns:
        A `TaskFamily`; a `Task` if the registered class is one.

    Raises:
        ValueError: an unknown name or setting, or a value that the class refuses.
    """
    return create("task", name, {key: entry.make for key, entry in TASKS.items()}, settings)
