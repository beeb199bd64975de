"""Tasks: the problems that optimizers are meta-trained and evaluated on.

`base.py` is the contract, `module_task.py` makes a task of any module and data, and `registry.py`
lists the built-in families. `families/` holds them, `episodes/` the few-shot tasks, and `data/`
reads data sets.
"""

from meta_train.tasks.base import (
    Batch,
    BatchedLoss,
    Loss,
    Problem,
    SampledTask,
    Task,
    TaskFamily,
    Tensors,
)
from meta_train.tasks.episodes.omniglot import OmniglotClasses, OmniglotEpisodes
from meta_train.tasks.episodes.sine import Sine
from meta_train.tasks.families.autoencoder import Autoencoder
from meta_train.tasks.families.char_rnn import CharRNN
from meta_train.tasks.families.char_transformer import CharTransformer
from meta_train.tasks.families.classic_functions import TestFunction, TestFunctions
from meta_train.tasks.families.conv import Conv
from meta_train.tasks.families.digits import DigitsMLP
from meta_train.tasks.families.logistic_regression import LogisticRegression
from meta_train.tasks.families.mixture import Mixture
from meta_train.tasks.families.quadratic import Quadratic
from meta_train.tasks.families.random_mlp import RandomMLP
from meta_train.tasks.module_task import ModuleTask
from meta_train.tasks.registry import TASKS, create_mixture, create_task, list_tasks
from meta_train.tasks.reparametrized import Reparametrized

__all__ = [
    "TASKS",
    "Autoencoder",
    "Batch",
    "BatchedLoss",
    "CharRNN",
    "CharTransformer",
    "Conv",
    "DigitsMLP",
    "LogisticRegression",
    "Loss",
    "Mixture",
    "ModuleTask",
    "OmniglotClasses",
    "OmniglotEpisodes",
    "Problem",
    "Quadratic",
    "RandomMLP",
    "Reparametrized",
    "SampledTask",
    "Sine",
    "Task",
    "TaskFamily",
    "Tensors",
    "TestFunction",
    "TestFunctions",
    "create_mixture",
    "create_task",
    "list_tasks",
]
