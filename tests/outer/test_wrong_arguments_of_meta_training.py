"""Something else in place of a rule, a task or settings gives one line that says what to give."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from meta_train import (
    MetaTrainer,
    Mixture,
    ModuleTask,
    TaskValidator,
    TrainSettings,
    compare,
    create_task,
)

MODEL = nn.Linear(2, 1)
DATA = torch.rand(6, 2), torch.rand(6, 1)
MSE = nn.functional.mse_loss
SETTINGS = TrainSettings(outer_steps=1)


def train(rule=None, family=None, settings=SETTINGS, **others):
    rule = create_rule("adam-lstm") if rule is None else rule
    family = ModuleTask(lambda: nn.Linear(2, 1), MSE, DATA) if family is None else family
    return MetaTrainer(rule, family, settings, **others)


CALLS = {
    "rule by name": (
        lambda: train(rule="adam-lstm"),
        "rule must be an UpdateRule, got 'adam-lstm': give create_rule('adam-lstm')",
    ),
    "optimizer": (
        lambda: train(rule=LearnedOptimizer(MODEL.parameters())),
        "rule must be an UpdateRule, got a LearnedOptimizer: the rule of a LearnedOptimizer is",
    ),
    "task by name": (
        lambda: train(family="digits-mlp"),
        "family must be a TaskFamily, got 'digits-mlp': give create_task('digits-mlp')",
    ),
    "module": (
        lambda: train(family=MODEL),
        "family must be a TaskFamily, got a Linear: ModuleTask makes one of a function",
    ),
    "class of tasks": (
        lambda: train(family=ModuleTask),
        "family must be a TaskFamily, got the class ModuleTask: create_task makes one",
    ),
    "settings": (
        lambda: train(settings={"outer_steps": 3}),
        "settings must be TrainSettings, got {'outer_steps': 3}: give TrainSettings(**settings)",
    ),
    "initialization": (
        lambda: train(initialization=MODEL),
        "initialization must be tensors by name, got a Linear: give dict(module.named_parameters",
    ),
    "validate": (
        lambda: train(validate=0.1),
        "validate must be a function or a Validator, got 0.1",
    ),
    "validated name": (
        lambda: TaskValidator("digits-mlp", 10, torch.device("cpu")),
        "family must be a TaskFamily, got 'digits-mlp': give create_task('digits-mlp')",
    ),
    "mixture of a list": (
        lambda: Mixture([create_task("quadratic")]),
        "families must be families by name, got a list",
    ),
    "mixture of a name": (
        lambda: Mixture({"one": "quadratic"}),
        "family 'one' must be a TaskFamily, got 'quadratic': give create_task('quadratic')",
    ),
    "task of a task": (
        lambda: create_task(create_task("quadratic")),
        "task must be a name, got a Quadratic",
    ),
    "compared name": (
        lambda: compare("adam", [], seeds=[0]),
        "rule must be an UpdateRule, got 'adam': give create_rule('adam')",
    ),
    "compared on a task": (
        lambda: compare(create_rule("adam"), [create_task("quadratic")], seeds=[0]),
        "tasks must be a list of ComparisonTask, got a list",
    ),
    "module without a function": (
        lambda: ModuleTask(MODEL, MSE, DATA),
        "make_module must be a function that returns a new module, got a Linear",
    ),
    "loss": (
        lambda: ModuleTask(lambda: MODEL, "mse", DATA),
        "loss must be a function (output, targets), got 'mse'",
    ),
    "text as batch size": (
        lambda: ModuleTask(lambda: MODEL, MSE, DATA, batch_size="8"),
        "batch_size must be a whole number of at least 1, got '8'",
    ),
    "part of an example": (
        lambda: ModuleTask(lambda: MODEL, MSE, DATA, batch_size=8.5),
        "batch_size must be a whole number of at least 1, got 8.5",
    ),
    "misspelt setting": (
        lambda: TrainSettings(outer_stesp=3),
        "unknown setting of TrainSettings 'outer_stesp'; did you mean 'outer_steps'?",
    ),
    "misspelt change": (
        lambda: replace(SETTINGS, outer_stesp=3),
        "unknown setting of TrainSettings 'outer_stesp'; did you mean 'outer_steps'?",
    ),
    "former setting": (
        lambda: TrainSettings(window=20),
        "setting window is now called truncation_length",
    ),
}


@pytest.mark.parametrize(("call", "message"), CALLS.values(), ids=CALLS)
def test_one_line_says_what_to_give(call, message):
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_settings_with_checked_names_are_settings_like_others():
    settings = TrainSettings("full", outer_steps=7)
    assert settings.estimator == "full" and settings.outer_steps == 7
    assert replace(settings, seed=3).seed == 3
    with pytest.raises(TypeError, match="multiple values for argument 'estimator'"):
        TrainSettings("full", estimator="es")
