"""Defaults of meta-training, written down: results without settings depend on them."""

from dataclasses import asdict

import pytest

from learned_opt import create_rule
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.outer.meta_optimizer import MetaOptimizer
from meta_train.outer.settings import TrainSettings

DEFAULTS = {
    "estimator": "truncated",
    "estimator_settings": {},
    "memory": "plain",
    "outer_steps": 300,
    "max_minutes": 5.0,
    "runs": 4,
    "groups": 1,
    "horizons": (100, 100, 100, 300),
    "horizon_draw": "listed",
    "horizon_stages": (),
    "inner_lr": None,
    "truncation_length": 20,
    "restart": 0.0,
    "param_rescale_range": 1.0,
    "loss_rescale_range": 0.0,
    "objective": "sqrt",
    "objective_data": "training",
    "imitate": None,
    "imitate_lr": None,
    "imitate_weight": (1.0, 0.0),
    "hide_loss": 0.0,
    "second_order": None,
    "vectorize": "auto",
    "meta_optimizer": "adam",
    "lr": 5e-3,
    "final_lr_fraction": 0.05,
    "schedule": "cosine",
    "grad_clip_norm": 1.0,
    "outlier_factor": 10.0,
    "max_consecutive_skips": 50,
    "ema_decay": 0.98,
    "validate_every": 50,
    "patience": 0,
    "checkpoint_every": 100,
    "keep_checkpoints": 2,
    "gates_every": 100,
    "dtype": "float32",
    "seed": 0,
}


def test_settings_have_their_published_defaults():
    assert asdict(TrainSettings()) == DEFAULTS


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("constant", 1.0),
        ("cosine", (1 + 0.05) / 2),
        ("linear", (1 + 0.05) / 2),
        ("exponential", 0.05**0.5),
    ],
)
def test_half_way_a_schedule_is_where_its_name_says(schedule, factor):
    settings = TrainSettings(outer_steps=100, schedule=schedule, lr=0.1, final_lr_fraction=0.05)
    optimizer = MetaOptimizer(MetaParameters(create_rule("adam-lstm")), settings)
    assert optimizer.rate(50) == pytest.approx(0.1 * factor)


def test_an_exponential_schedule_ends_no_lower_than_a_millionth():
    settings = TrainSettings(outer_steps=100, schedule="exponential", lr=1.0, final_lr_fraction=0.0)
    optimizer = MetaOptimizer(MetaParameters(create_rule("adam-lstm")), settings)
    assert optimizer.rate(100) == pytest.approx(1e-6)


def test_the_learning_rate_warms_up_over_twenty_steps():
    settings = TrainSettings(outer_steps=1000, schedule="constant", lr=0.1)
    optimizer = MetaOptimizer(MetaParameters(create_rule("adam-lstm")), settings)
    assert [optimizer.rate(step) for step in (1, 10, 20, 21)] == pytest.approx(
        [0.005, 0.05, 0.1, 0.1]
    )
