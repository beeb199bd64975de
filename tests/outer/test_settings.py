"""Settings of meta-training: defaults, checks, and the parts that they are composed of."""

import math
from dataclasses import asdict

import pytest

from meta_train.estimators.settings import EstimatorSettings
from meta_train.inner.settings import InnerSettings
from meta_train.outer.meta_optimizer import MetaOptimizerSettings
from meta_train.outer.settings import TrainSettings

DEFAULTS = {
    "estimator": "truncated",
    "estimator_settings": {},
    "memory": "plain",
    "objective": "sqrt",
    "objective_data": "training",
    "groups": 1,
    "runs": 4,
    "horizons": (100, 100, 100, 300),
    "horizon_draw": "listed",
    "horizon_stages": (),
    "truncation_length": 20,
    "restart": 0.0,
    "inner_lr": None,
    "param_rescale_range": 1.0,
    "loss_rescale_range": 0.0,
    "hide_loss": 0.0,
    "imitate": None,
    "imitate_lr": None,
    "imitate_weight": (1.0, 0.0),
    "second_order": None,
    "vectorize": "auto",
    "compile_rule": False,
    "fused_rule": True,
    "outer_steps": 300,
    "meta_optimizer": "adam",
    "lr": 5e-3,
    "final_lr_fraction": 0.05,
    "schedule": "cosine",
    "grad_clip_norm": 1.0,
    "outlier_factor": 10.0,
    "ema_decay": 0.98,
    "validate_every": 50,
    "patience": 0,
    "checkpoint_every": 100,
    "keep_checkpoints": 2,
    "gates_every": 100,
    "max_minutes": 5.0,
    "max_consecutive_skips": 50,
    "dtype": "float32",
    "seed": 0,
}


def test_defaults():
    assert asdict(TrainSettings()) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("objective", "lgo", "did you mean 'log'"),
        ("estimator", "ful", "did you mean 'full'"),
        ("objective_data", "train", "unknown objective_data 'train'"),
        ("vectorize", "sometimes", "unknown vectorize 'sometimes'"),
        ("horizon_draw", "uniform", "horizon_draw must be one of listed, log-uniform"),
        ("meta_optimizer", "adm", "did you mean 'adam'"),
        ("schedule", "cosin", "did you mean 'cosine'"),
        ("dtype", "float16", "unknown dtype 'float16'"),
        ("memory", "much", "memory must be one of"),
        ("runs", 0, "runs must be at least 1, got 0"),
        ("groups", 0, "groups must be at least 1, got 0"),
        ("truncation_length", 0, "truncation_length must be at least 1"),
        ("validate_every", 0, "validate_every must be at least 1"),
        ("checkpoint_every", 0, "checkpoint_every must be at least 1"),
        ("keep_checkpoints", 0, "keep_checkpoints must be at least 1"),
        ("max_consecutive_skips", 0, "max_consecutive_skips must be at least 1"),
        ("horizons", (), "horizons must"),
        ("horizons", (0, 3), "a horizon of 0 needs an estimator of full, first-order, es"),
        ("lr", -1.0, "lr must be positive, got -1"),
        ("lr", math.nan, "lr must be a number, got nan"),
        ("lr", math.inf, r"lr must be at most 1e\+30, got inf"),
        ("max_minutes", 0.0, "max_minutes must be positive"),
        ("grad_clip_norm", math.inf, "grad_clip_norm must be at most"),
        ("outlier_factor", 0.0, "outlier_factor must be positive"),
        ("param_rescale_range", -1.0, "param_rescale_range must not be negative"),
        ("loss_rescale_range", math.inf, "loss_rescale_range must be at most"),
        ("ema_decay", 1.5, r"ema_decay must be in \[0, 1\], got 1.5"),
        ("final_lr_fraction", -0.1, "final_lr_fraction must be in"),
        ("restart", 2, "restart must be in"),
        ("hide_loss", 2, "hide_loss must be in"),
        ("outer_steps", -1, "outer_steps must not be negative"),
        ("gates_every", -1, "gates_every must not be negative"),
        ("patience", -1, "patience must not be negative"),
        ("inner_lr", math.inf, "inner_lr must be finite"),
        ("imitate", "adm", "did you mean 'adam'"),
        ("imitate_weight", (1.0,), "imitate_weight must be a list of 2"),
        ("imitate_weight", (1.0, -1.0), "imitate_weight must be two numbers"),
    ],
)
def test_bad_settings_name_themselves(name, value, said):
    with pytest.raises(ValueError, match=said):
        TrainSettings(**{name: value})


def test_a_part_stands_alone_and_checks_its_own_settings():
    assert MetaOptimizerSettings(outer_steps=7).outer_steps == 7
    assert InnerSettings(horizons=(3, 5)).planned_horizons().longest() == 5
    with pytest.raises(ValueError, match="lr must be positive"):
        MetaOptimizerSettings(lr=0.0)
    with pytest.raises(ValueError, match="needs estimator full or first-order"):
        EstimatorSettings(memory="500MiB")


def test_the_weight_of_imitation_is_linear():
    settings = InnerSettings(imitate="adam", imitate_weight=(2.0, 1.0))
    assert [settings.imitation_weight(progress) for progress in (0.0, 0.5, 1.0)] == [2.0, 1.5, 1.0]
    assert InnerSettings(imitate_weight=(2.0, 1.0)).imitation_weight(0.0) == 0.0


def test_settings_that_may_change_on_resume():
    fixed = TrainSettings().fixed_on_resume()
    assert DEFAULTS.keys() - fixed.keys() == {
        *("outer_steps", "max_minutes", "patience", "max_consecutive_skips"),
        *("checkpoint_every", "keep_checkpoints", "gates_every"),
    }
