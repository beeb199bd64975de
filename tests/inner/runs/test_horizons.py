"""Lengths of inner runs: stages, ranges, distributions."""

import math

import pytest
import torch

from meta_train.inner.runs.horizons import Horizons


def draws(horizons, count, progress=0.0):
    source = torch.Generator().manual_seed(0)
    return [horizons.sample(source, progress) for _ in range(count)]


def test_listed_lengths_are_drawn_as_often_as_they_are_listed():
    drawn = draws(Horizons([[100, 100, 100, 300]]), 4000)
    assert set(drawn) == {100, 300}
    assert abs(drawn.count(300) - 1000) < 4.5 * math.sqrt(4000 * 0.25 * 0.75)


def test_stages_divide_meta_training_evenly():
    horizons = Horizons([[1], [2], [3]])
    expected = [(0.0, 1), (0.33, 1), (0.34, 2), (0.66, 2), (0.67, 3), (0.99, 3), (1.0, 3), (1.5, 3)]
    for progress, length in expected:
        assert draws(horizons, 3, progress) == [length] * 3
    assert horizons.longest() == 3


def test_log_uniform_lengths_are_uniform_in_the_logarithm_and_within_the_ends():
    drawn = torch.tensor(draws(Horizons([[1000, 100]], "log-uniform"), 4000), dtype=torch.float64)
    assert drawn.min() >= 100
    assert drawn.max() <= 1000
    place = ((drawn.log() - math.log(100)) / math.log(10)).sort().values
    # Kolmogorov and Smirnov's distance from the uniform distribution; rounding moves it by 0.002.
    uniform = (torch.arange(4000) + 0.5) / 4000
    assert (place - uniform).abs().max() < 1.95 / math.sqrt(4000) + 0.002


def test_log_uniform_between_a_length_and_itself_is_that_length():
    assert draws(Horizons([[37]], "log-uniform"), 20) == [37] * 20


def test_the_same_generator_draws_the_same_lengths():
    horizons = Horizons([[10, 1000]], "log-uniform")
    assert draws(horizons, 10) == draws(horizons, 10)
    assert len(set(draws(horizons, 10))) > 5


@pytest.mark.parametrize("stages", [[], [[]], [[1], []]])
def test_a_stage_needs_a_length(stages):
    with pytest.raises(ValueError, match="^horizons must not be empty$"):
        Horizons(stages)


def test_negative_lengths_are_refused():
    with pytest.raises(ValueError, match=r"^horizons must be at least 0, got \[5, -1\]$"):
        Horizons([[1], [5, -1]])


def test_no_step_at_all_is_a_length_but_has_no_logarithm():
    assert Horizons([[0], [3]]).shortest() == 0
    assert draws(Horizons([[0]]), 3) == [0, 0, 0]
    with pytest.raises(ValueError, match=r"^horizons must be at least 1, got \[0, 10\]$"):
        Horizons([[0, 10]], "log-uniform")


def test_other_draws_are_refused():
    with pytest.raises(ValueError, match="horizon_draw must be one of listed, log-uniform"):
        Horizons([[1]], "uniform")
