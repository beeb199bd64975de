"""Range checks name the setting, and refuse what is not a number."""

import math
from typing import get_args, get_type_hints

import numpy as np
import pytest

from meta_train.few_shot.settings import FewShotConfig
from meta_train.jobs.config import EvaluateSettings, ValidateSettings
from meta_train.outer.settings import TrainSettings
from meta_train.runtime.checks import (
    check_at_least,
    check_fraction,
    check_not_negative,
    check_positive,
)


def test_values_at_the_limits_pass():
    check_at_least(1, a=1, b=2)
    check_positive(a=1e-300, b=1e30)
    check_not_negative(a=0, b=1e30)
    check_fraction(a=0, b=1)


@pytest.mark.parametrize(
    ("check", "value", "said"),
    [
        (lambda **values: check_at_least(1, **values), 0, "b must be at least 1, got 0"),
        (check_positive, 0.0, "b must be positive, got 0.0"),
        (check_positive, math.nan, "b must be positive, got nan"),
        (check_positive, 1.1e30, r"b must be at most 1e\+30, got 1.1e\+30"),
        (check_not_negative, -1, "b must not be negative, got -1"),
        (check_not_negative, math.inf, r"b must be at most 1e\+30, got inf"),
        (check_fraction, 1.01, r"b must be in \[0, 1\], got 1.01"),
        (check_fraction, math.nan, r"b must be in \[0, 1\], got nan"),
    ],
)
def test_the_bad_one_is_named(check, value, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        check(a=1, b=value)


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        (TrainSettings, "validate_every", 2.5),
        (TrainSettings, "seed", math.inf),
        (EvaluateSettings, "steps", np.float32(0.5) + 100),
        (FewShotConfig, "shots", 1.5),
    ],
)
def test_a_count_that_is_not_whole_is_refused(settings, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number, got {value}$"):
        settings(**{name: value})


def fields_of(kind):
    """All fields of settings classes whose type is `kind`, optional ones included."""
    return [
        pytest.param(settings, name, id=f"{settings.__name__}-{name}")
        for settings in (TrainSettings, EvaluateSettings, ValidateSettings, FewShotConfig)
        for name, hint in get_type_hints(settings).items()
        if hint is kind or set(get_args(hint)) == {kind, type(None)}
    ]


@pytest.mark.parametrize(("settings", "name"), fields_of(int))
@pytest.mark.parametrize("value", [2.5, "3", True])
def test_every_count_is_refused_that_is_not_whole(settings, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number, got {value!r}$"):
        settings(**{name: value})


@pytest.mark.parametrize(("settings", "name"), fields_of(float))
@pytest.mark.parametrize("value", ["3", False])
def test_every_number_is_refused_that_is_none(settings, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a number, got {value!r}$"):
        settings(**{name: value})


@pytest.mark.parametrize(("settings", "name"), fields_of(bool))
def test_every_switch_is_refused_that_is_neither_true_nor_false(settings, name):
    with pytest.raises(ValueError, match=f"^{name} must be True or False, got 1$"):
        settings(**{name: 1})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("horizons", (4, 2.5), r"horizons\[1\] must be a whole number, got 2.5"),
        ("horizons", (math.nan,), r"horizons\[0\] must be a whole number, got nan"),
        ("horizons", "12", "horizons must be a list, got '12'"),
        ("horizons", 12, "horizons must be a list, got 12"),
        ("horizon_stages", ((5,), ("6",)), r"horizon_stages\[1\]\[0\] must be a whole .* got '6'"),
        ("seed", "3", "seed must be a whole number, got '3'"),
        ("validate_every", None, "validate_every must be a whole number, got None"),
        ("lr", "0.1", "lr must be a number, got '0.1'"),
        ("inner_lr", "0.1", "inner_lr must be a number, got '0.1'"),
        ("imitate_weight", (1.0, None), r"imitate_weight\[1\] must be a number, got None"),
        ("compile_rule", "no", "compile_rule must be True or False, got 'no'"),
        ("second_order", "false", "second_order must be True or False, got 'false'"),
    ],
)
def test_a_value_of_another_type_is_refused(name, value, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        TrainSettings(**{name: value})


def test_lists_become_tuples_of_whole_numbers():
    settings = TrainSettings(horizons=np.array([3.0, 4.0]), horizon_stages=[[5], [6.0]])
    assert settings.horizons == (3, 4) and settings.horizon_stages == ((5,), (6,))
    assert {type(length) for stage in settings.horizon_stages for length in stage} == {int}
    assert TrainSettings(inner_lr=None, second_order=None, lr=1).lr == 1


def test_whole_numbers_of_other_types_become_pythons():
    settings = TrainSettings(runs=3.0, outer_steps=np.int64(7), max_minutes=2.5)
    assert (settings.runs, settings.outer_steps, settings.max_minutes) == (3, 7, 2.5)
    assert type(settings.runs) is type(settings.outer_steps) is int
