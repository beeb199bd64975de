"""Mixtures of families: weights, names, and config files."""

from collections import Counter

import pytest

from meta_train.runtime.seeding import generator
from meta_train.tasks import Mixture, Quadratic, create_task


def test_a_mixture_draws_by_weight_and_is_evaluated_on_all_families():
    families = {"two": Quadratic(dimensions=2), "three": Quadratic(dimensions=3)}
    mixture = Mixture(families, [3, 1])
    drawn = [mixture.sample_task(generator(k)) for k in range(400)]
    counts = Counter(sampled.name for sampled in drawn)
    assert counts["two"] == pytest.approx(300, abs=40)
    assert all(sampled.task is families[sampled.name] for sampled in drawn)
    assert list(mixture.held_out()) == ["two: same family", "three: same family"]
    assert mixture.validation().weights == mixture.weights


def test_the_default_mixture_has_every_family_that_is_not_for_few_shot_learning():
    mixture = create_task("mixture")
    assert list(mixture.families) == [
        "digits-mlp",
        "quadratic",
        "test-functions",
        "logistic-regression",
        "random-mlp",
        "conv",
        "autoencoder",
        "regression",
        "word-pairs",
        "char-recurrent",
        "char-rnn",
        "char-transformer",
    ]
    assert mixture.weights == [1.0] * 12


def test_a_mixture_of_a_config_file_can_hold_a_family_twice():
    settings = {"small": {"task": "quadratic", "dimensions": 2}, "quadratic": {"dimensions": 3}}
    mixture = create_task("mixture", families=settings, weights=[1, 1])
    assert {name: task.dimensions for name, task in mixture.families.items()} == {
        "small": 2,
        "quadratic": 3,
    }
    assert settings["small"]["task"] == "quadratic"
