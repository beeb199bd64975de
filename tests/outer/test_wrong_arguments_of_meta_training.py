"""Something else in place of a rule, a task or settings gives one line that says what to give."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from meta_train import (
    Baseline,
    ComparisonTask,
    MetaTrainer,
    Mixture,
    ModuleTask,
    TaskValidator,
    TrainSettings,
    compare,
    create_task,
)
from meta_train.few_shot.methods.settings import MethodSettings
from meta_train.few_shot.settings import FewShotConfig

MODEL = nn.Linear(2, 1)
DATA = torch.rand(6, 2), torch.rand(6, 1)
MSE = nn.functional.mse_loss
SETTINGS = TrainSettings(outer_steps=1)
QUADRATIC = create_task("quadratic")


def train(**arguments):
    family = ModuleTask(lambda: nn.Linear(2, 1), MSE, DATA)
    right = {"rule": create_rule("adam-lstm"), "family": family, "settings": SETTINGS}
    return MetaTrainer(**{**right, **arguments})


def validate(**arguments):
    return TaskValidator(**{"family": QUADRATIC, "steps": 10, "device": "cpu", **arguments})


def compare_none(**arguments):
    return compare(**{"rule": create_rule("adam"), "tasks": [], "seeds": [0], **arguments})


def comparison_task(**arguments):
    right = {"name": "a", "title": "A", "task": QUADRATIC, "steps": 5, "patience": 5}
    return ComparisonTask(**{**right, **arguments})


def baseline(**arguments):
    return Baseline(**{"label": "Adam", "rule": "adam", "learning_rates": (0.1,), **arguments})


def module_task(**arguments):
    return ModuleTask(**{"make_module": lambda: MODEL, "loss": MSE, "data": DATA, **arguments})


def changed_settings(**arguments):
    return replace(SETTINGS, **arguments)


WRONG = {
    train: [
        (
            {"rule": "adam-lstm"},
            "rule must be an UpdateRule, got 'adam-lstm': give create_rule('adam-lstm')",
        ),
        (
            {"rule": LearnedOptimizer(MODEL.parameters())},
            "rule must be an UpdateRule, got a LearnedOptimizer: the rule of a LearnedOptimizer is",
        ),
        (
            {"family": "digits-mlp"},
            "family must be a TaskFamily, got 'digits-mlp': give create_task('digits-mlp')",
        ),
        (
            {"family": MODEL},
            "family must be a TaskFamily, got a Linear: ModuleTask makes one of a function",
        ),
        (
            {"family": ModuleTask},
            "family must be a TaskFamily, got the class ModuleTask: create_task makes one",
        ),
        (
            {"settings": {"outer_steps": 3}},
            "settings must be TrainSettings, got {'outer_steps': 3}: "
            "give TrainSettings(**settings)",
        ),
        (
            {"initialization": MODEL},
            "initialization must be tensors by name, got a Linear: "
            "give dict(module.named_parameters",
        ),
        ({"validate": 0.1}, "validate must be a function or a Validator, got 0.1"),
        ({"folder": 3}, "folder must be a path, got 3"),
        ({"device": 2.5}, "device must be a torch.device or its name, got 2.5"),
        ({"distributed": 3}, "distributed must be a DistributedContext or None, got 3"),
    ],
    validate: [
        (
            {"family": "digits-mlp"},
            "family must be a TaskFamily, got 'digits-mlp': give create_task('digits-mlp')",
        ),
        ({"steps": "3"}, "steps must be a whole number of at least 1, got '3'"),
    ],
    Mixture: [
        ({"families": [QUADRATIC]}, "families must be families by name, got a list"),
        (
            {"families": {"one": "quadratic"}},
            "family 'one' must be a TaskFamily, got 'quadratic': give create_task('quadratic')",
        ),
        ({"families": {"one": QUADRATIC}, "weights": 3}, "weights must be a list, got 3"),
    ],
    create_task: [({"name": QUADRATIC}, "task must be a name, got a Quadratic")],
    compare_none: [
        ({"rule": "adam"}, "rule must be an UpdateRule, got 'adam': give create_rule('adam')"),
        ({"tasks": [QUADRATIC]}, "tasks must be a list of ComparisonTask, got a list"),
        ({"tasks": 3}, "tasks must be a list of ComparisonTask, got 3"),
        ({"seeds": "012"}, "seeds must be a list, got '012'"),
        ({"baselines": ["adam"]}, "a baseline must be a Baseline, got 'adam'"),
        ({"workers": "2"}, "workers must be a whole number of at least 1, got '2'"),
        ({"on_steps": 3}, "on_steps must be a function of a number of steps, got 3"),
    ],
    comparison_task: [
        ({"task": "quadratic"}, "task must be a Task, got 'quadratic'"),
        ({"steps": True}, "steps must be a whole number, got True"),
    ],
    baseline: [
        ({"rule": "adm"}, "unknown rule 'adm'; did you mean 'adam'?"),
        ({"learning_rates": 0.1}, "learning_rates must be a list, got 0.1"),
        ({"learning_rates": ()}, "learning_rates must not be empty"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'?"),
    ],
    module_task: [
        (
            {"make_module": MODEL},
            "make_module must be a function that returns a new module, got a Linear",
        ),
        ({"loss": "mse"}, "loss must be a function (output, targets), got 'mse'"),
        ({"batch_size": "8"}, "batch_size must be a whole number of at least 1, got '8'"),
        ({"batch_size": 8.5}, "batch_size must be a whole number of at least 1, got 8.5"),
        ({"examples": "4"}, "examples must be a whole number of at least 0, got '4'"),
    ],
    TrainSettings: [
        (
            {"outer_stesp": 3},
            "unknown setting of TrainSettings 'outer_stesp'; did you mean 'outer_steps'?",
        ),
        ({"window": 20}, "setting window is now called truncation_length"),
    ],
    changed_settings: [
        (
            {"outer_stesp": 3},
            "unknown setting of TrainSettings 'outer_stesp'; did you mean 'outer_steps'?",
        ),
    ],
    FewShotConfig: [
        ({"shotz": 3}, "unknown setting of FewShotConfig 'shotz'; did you mean 'shots'?"),
    ],
    MethodSettings: [
        (
            {"iner_lr": 0.1},
            "unknown setting of MethodSettings 'iner_lr'; did you mean 'inner_lr'?",
        ),
        ({"method": "r2d2"}, "setting method is now called head"),
        ({"train_steps": True}, "train_steps must be a whole number, got True"),
    ],
}
"""By what is called: wrong arguments, and how the message begins."""


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [(call, *row) for call, rows in WRONG.items() for row in rows],
)
def test_one_line_says_what_to_give(call, arguments, message):
    with pytest.raises((ValueError, TypeError)) as error:
        call(**arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "call", [train, validate, compare_none, comparison_task, baseline, module_task]
)
def test_the_other_arguments_are_right(call):
    call()


def test_settings_with_checked_names_are_settings_like_others():
    settings = TrainSettings("full", outer_steps=7)
    assert settings.estimator == "full" and settings.outer_steps == 7
    assert replace(settings, seed=3).seed == 3
    with pytest.raises(TypeError, match="multiple values for argument 'estimator'"):
        TrainSettings("full", estimator="es")
