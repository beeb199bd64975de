"""Drawing and checking the settings of tasks."""

from collections import Counter

import pytest
import torch

from meta_train.tasks.families.sampling import (
    check_names,
    check_range,
    sample_bool,
    sample_choice,
    sample_int,
)


def draws(sample, *arguments, count=3000):
    source = torch.Generator().manual_seed(0)
    return Counter(sample(source, *arguments) for _ in range(count))


def test_integers_are_uniform_and_include_both_bounds():
    counts = draws(sample_int, (3, 5))
    assert set(counts) == {3, 4, 5}
    assert all(count == pytest.approx(1000, abs=100) for count in counts.values())
    assert draws(sample_int, (4, 4), count=5) == {4: 5}


def test_choices_are_uniform():
    counts = draws(sample_choice, ("a", "b", "c"))
    assert set(counts) == {"a", "b", "c"}
    assert all(count == pytest.approx(1000, abs=100) for count in counts.values())


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (0.25, 750), (1.0, 3000)])
def test_true_has_its_probability(probability, expected):
    assert draws(sample_bool, probability)[True] == pytest.approx(expected, abs=80)


def test_a_seed_draws_what_it_always_drew():
    """These values stand for every task of every seed: meta-trainings are repeatable."""
    source = torch.Generator().manual_seed(0)
    assert [sample_int(source, (0, 99)) for _ in range(3)] == [44, 39, 33]
    assert [sample_choice(source, "abcdef") for _ in range(3)] == ["a", "b", "d"]
    assert [sample_bool(source, 0.5) for _ in range(4)] == [True, False, True, False]


def test_ranges():
    assert check_range("width", [2, 4]) == (2, 4)
    for wrong in ((0, 4), (4, 2), (2,), (1, 2, 3)):
        with pytest.raises(ValueError, match="width must be two numbers, 1 <= low <= high"):
            check_range("width", wrong)


def test_names():
    assert check_names("data", ["a"], ("a", "b")) == ("a",)
    with pytest.raises(ValueError, match="unknown data 'c'"):
        check_names("data", ["a", "c"], ("a", "b"))
