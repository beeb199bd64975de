"""What a comparison is made of, written down."""

import pytest

from meta_train.evaluation.baselines import BASELINES, SCHEDULES

DECADES = [1.0, 10 ** (1 / 3), 10 ** (2 / 3)]


@pytest.mark.parametrize(
    ("label", "rule", "lowest", "schedule"),
    [
        ("Adam", "adam", 1e-3, "constant"),
        ("RMSprop", "rmsprop", 1e-3, "constant"),
        ("SGD + momentum", "momentum", 1e-2, "constant"),
        ("Adam, decayed", "adam", 1e-3, "inverse"),
    ],
)
def test_baselines_are_tuned_over_three_decades(label, rule, lowest, schedule):
    (baseline,) = [one for one in BASELINES if one.label == label]
    assert (baseline.rule, baseline.schedule, baseline.weight_decay) == (rule, schedule, 0.0)
    expected = [lowest * 10**decade * part for decade in range(3) for part in DECADES]
    assert baseline.learning_rates == pytest.approx([*expected, 1000 * lowest])


def test_a_cosine_warms_up_over_three_hundredths_of_the_steps():
    cosine = SCHEDULES["cosine"]
    assert cosine(15, 1000) == pytest.approx(0.5, rel=1e-3)
    assert cosine(30, 1000) == pytest.approx(1.0, rel=3e-3)
    assert cosine(500, 1000) == pytest.approx(0.5)
    assert cosine(1000, 1000) == pytest.approx(0.0, abs=1e-12)
