"""The learning rate of meta-training, written down step by step."""

import pytest

from learned_opt import create_rule
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.outer.meta_optimizer import MetaOptimizer
from meta_train.outer.settings import TrainSettings


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
    assert optimizer.learning_rate(50) == pytest.approx(0.1 * factor)


def test_an_exponential_schedule_ends_no_lower_than_a_millionth():
    settings = TrainSettings(outer_steps=100, schedule="exponential", lr=1.0, final_lr_fraction=0.0)
    optimizer = MetaOptimizer(MetaParameters(create_rule("adam-lstm")), settings)
    assert optimizer.learning_rate(100) == pytest.approx(1e-6)


def test_the_learning_rate_warms_up_over_twenty_steps():
    settings = TrainSettings(outer_steps=1000, schedule="constant", lr=0.1)
    optimizer = MetaOptimizer(MetaParameters(create_rule("adam-lstm")), settings)
    assert [optimizer.learning_rate(step) for step in (1, 10, 20, 21)] == pytest.approx(
        [0.005, 0.05, 0.1, 0.1]
    )
