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
    "folder": (lambda: train(folder=3), "folder must be a path, got 3"),
    "device": (lambda: train(device=2.5), "device must be a torch.device or its name, got 2.5"),
    "processes": (
        lambda: train(distributed=3),
        "distributed must be a DistributedContext or None, got 3",
    ),
    "steps of validation": (
        lambda: TaskValidator(create_task("quadratic"), "3", torch.device("cpu")),
        "steps must be a whole number of at least 1, got '3'",
    ),
    "weights of a mixture": (
        lambda: Mixture({"one": create_task("quadratic")}, weights=3),
        "weights must be a list, got 3",
    ),
    "examples": (
        lambda: ModuleTask(lambda: MODEL, MSE, DATA, examples="4"),
        "examples must be a whole number of at least 0, got '4'",
    ),
    "number of tasks": (
        lambda: compare(create_rule("adam"), 3, seeds=[0]),
        "tasks must be a list of ComparisonTask, got 3",
    ),
    "letters as seeds": (
        lambda: compare(create_rule("adam"), [], seeds="012"),
        "seeds must be a list, got '012'",
    ),
    "baselines by name": (
        lambda: compare(create_rule("adam"), [], seeds=[0], baselines=["adam"]),
        "a baseline must be a Baseline, got 'adam'",
    ),
    "workers": (
        lambda: compare(create_rule("adam"), [], seeds=[0], workers="2"),
        "workers must be a whole number of at least 1, got '2'",
    ),
    "progress": (
        lambda: compare(create_rule("adam"), [], seeds=[0], on_steps=3),
        "on_steps must be a function of a number of steps, got 3",
    ),
    "family to compare on": (
        lambda: ComparisonTask("a", "A", "quadratic", steps=5, patience=5),
        "task must be a Task, got 'quadratic'",
    ),
    "compared steps": (
        lambda: ComparisonTask("a", "A", create_task("quadratic"), steps=True, patience=5),
        "steps must be a whole number, got True",
    ),
    "baseline": (
        lambda: Baseline("Adam", "adm", (0.1,)),
        "unknown rule 'adm'; did you mean 'adam'?",
    ),
    "rates of a baseline": (
        lambda: Baseline("Adam", "adam", 0.1),
        "learning_rates must be a list, got 0.1",
    ),
    "no rate of a baseline": (
        lambda: Baseline("Adam", "adam", ()),
        "learning_rates must not be empty",
    ),
    "schedule of a baseline": (
        lambda: Baseline("Adam", "adam", (0.1,), schedule="cosin"),
        "unknown schedule 'cosin'; did you mean 'cosine'?",
    ),
    "misspelt setting of few-shot": (
        lambda: FewShotConfig(shotz=3),
        "unknown setting of FewShotConfig 'shotz'; did you mean 'shots'?",
    ),
    "misspelt setting of a method": (
        lambda: MethodSettings(iner_lr=0.1),
        "unknown setting of MethodSettings 'iner_lr'; did you mean 'inner_lr'?",
    ),
    "former setting of a method": (
        lambda: MethodSettings(method="r2d2"),
        "setting method is now called head",
    ),
    "true steps of a method": (
        lambda: MethodSettings(train_steps=True),
        "train_steps must be a whole number, got True",
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
