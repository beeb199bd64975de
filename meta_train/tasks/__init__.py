"""Tasks: the problems that optimizers are meta-trained and evaluated on."""

from meta_train.tasks.autoencoder import Autoencoder
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
from meta_train.tasks.char_rnn import CharRNN
from meta_train.tasks.char_transformer import CharTransformer
from meta_train.tasks.classic_functions import TestFunction, TestFunctions
from meta_train.tasks.conv import Conv
from meta_train.tasks.digits import DigitsMLP
from meta_train.tasks.episodes.omniglot import OmniglotClasses, OmniglotEpisodes
from meta_train.tasks.episodes.sine import Sine
from meta_train.tasks.logistic_regression import LogisticRegression
from meta_train.tasks.mixture import Mixture
from meta_train.tasks.module_task import ModuleTask
from meta_train.tasks.quadratic import Quadratic
from meta_train.tasks.random_mlp import RandomMLP
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
