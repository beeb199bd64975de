"""Values of settings fit their types, in all registries of rules, estimators, tasks and methods."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

from learned_opt import create_rule
from learned_opt.checks.setting_types import fitted, plain, setting_types
from learned_opt.registry import create
from learned_opt.rules.per_tensor_rates import ANY_RULES
from meta_train import create_estimator, create_task
from meta_train.estimators import ESTIMATORS
from meta_train.few_shot.heads.episodes import HEADS
from meta_train.few_shot.methods.settings import MARGINS, READERS
from meta_train.tasks import TASKS

CONSTRUCTORS = {
    "rule": {name: entry.cls for name, entry in ANY_RULES.items()},
    "estimator": ESTIMATORS,
    "task": {name: entry.make for name, entry in TASKS.items()},
    "head": HEADS,
    "reader": READERS,
    "margin": MARGINS,
}


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        (3, int, 3),
        (3.0, int, 3),
        (np.int64(3), int, 3),
        (3, float, 3),
        (torch.tensor(0.5), float, 0.5),
        (float("inf"), float, float("inf")),
        (np.True_, bool, True),
        ("relu", str, "relu"),
        (Path("a"), str, Path("a")),
        (None, int | None, None),
        ([1, 2.0], tuple[int, ...], (1, 2)),
        ([1, 2.0], list[int], [1, 2]),
        (np.array([0.9, 0.5]), tuple[float, float], (0.9, 0.5)),
        ([3], int | tuple[int, ...], (3,)),
        ({"a": [np.float32(2)]}, dict[str, object], {"a": [2.0]}),
    ],
)
def test_a_value_that_fits_becomes_plain(value, hint, result):
    found = fitted("x", value, hint)
    assert found == result and type(found) is type(result)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (2.5, int, "x must be a whole number, got 2.5"),
        (True, int, "x must be a whole number, got True"),
        ("3", int | None, "x must be a whole number, got '3'"),
        (False, float, "x must be a number, got False"),
        (float("nan"), float, "x must be a number, got nan"),
        ("no", bool, "x must be True or False, got 'no'"),
        (1, bool, "x must be True or False, got 1"),
        (3, str, "x must be a text, got 3"),
        ("12", tuple[int, ...], "x must be a list, got '12'"),
        ({1, 2}, list[int], "x must be a list, got a set"),
        ((1, None), tuple[int, ...], r"x[1] must be a whole number, got None"),
        ((1.0,), tuple[float, float], "x must be a list of 2, got (1.0,)"),
        ([1], dict[str, int], "x must be a mapping, got [1]"),
        ({"a": "b"}, dict[str, int], "x['a'] must be a whole number, got 'b'"),
    ],
)
def test_a_value_of_another_type_is_named(value, hint, message):
    with pytest.raises(ValueError) as error:
        fitted("x", value, hint)
    assert str(error.value) == message


def test_other_types_pass():
    module, function = torch.nn.Linear(2, 1), torch.sin
    assert fitted("x", module, torch.nn.Module) is module
    assert fitted("x", function, object) is function
    assert plain({"a": (np.int64(1), [torch.tensor(2)])}) == {"a": (1, [2])}


SETTINGS = [
    pytest.param(kind, name, setting, id=f"{kind}-{name}-{setting}")
    for kind, table in CONSTRUCTORS.items()
    for name, constructor in table.items()
    for setting, hint in setting_types(constructor).items()
    if hint in (int, float, bool, int | None, float | None)
    and setting in inspect.signature(constructor).parameters
]


@pytest.mark.parametrize(("kind", "name", "setting"), SETTINGS)
def test_no_registry_takes_a_text_for_a_number_or_a_truth_value(kind, name, setting):
    """By the registry's own function, which all of them share."""
    table = CONSTRUCTORS[kind]
    needed = {
        key: None
        for key, parameter in inspect.signature(table[name]).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    # The setting comes first, so that it is the first to be looked at.
    with pytest.raises(ValueError) as error:
        create(kind, name, table, {setting: "no", **{**needed, setting: "no"}})
    assert str(error.value).startswith(f"{setting} must be ")
    assert str(error.value).endswith(", got 'no'")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: create_rule("adam-lstm", hidden_size=True),
            "hidden_size must be a whole number, got True",
        ),
        (
            lambda: create_rule("adam-lstm", differentiate_inputs="no"),
            "differentiate_inputs must be True or False, got 'no'",
        ),
        (
            lambda: create_estimator("implicit", cg_steps=True),
            "cg_steps must be a whole number, got True",
        ),
        (
            lambda: create_task("digits-mlp", batch_size=True),
            "batch_size must be a whole number, got True",
        ),
        (
            lambda: create_task("digits-mlp", hidden=20),
            "hidden must be a list, got 20",
        ),
        (
            lambda: create_rule("sgd", nesterov=True),
            "unknown setting of rule 'sgd' 'nesterov' (known: none)",
        ),
        (
            lambda: create_rule("sgd", settings=3),
            "unknown setting of rule 'sgd' 'settings' (known: none)",
        ),
    ],
)
def test_a_wrong_setting_is_one_line(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
