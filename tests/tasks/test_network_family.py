"""Families of random networks: defaults, and how many examples a task trains on."""

import pytest
import torch

from meta_train.runtime.seeding import generator
from meta_train.tasks import Autoencoder, CharRNN, CharTransformer, Conv, RandomMLP

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", [RandomMLP(), Conv(), Autoencoder(), CharRNN()])
def test_defaults_of_all_families(family):
    """The bundled weights step-size-lstm were meta-trained with these."""
    assert family.split == "train"
    assert family.batch_size == (16, 64)
    assert family.scale_spread == 0.5
    assert family.few_probability == 0.4
    assert family.few_examples == (100, 1000)
    assert family.full_rows == 1000


def test_defaults_of_each_family():
    mlp = RandomMLP()
    assert (mlp.depth, mlp.width) == ((1, 3), (12, 32))
    assert mlp.activations == ("tanh", "relu", "gelu")
    assert mlp.data == ("digits", "photos")
    assert (Conv().depth, Conv().channels) == ((1, 3), (4, 12))
    assert (Autoencoder().width, Autoencoder().code) == ((16, 48), (2, 12))
    assert (CharRNN().length, CharRNN().width) == ((12, 24), (16, 32))
    assert (CharTransformer().depth, CharTransformer().heads) == ((1, 2), 2)


def test_validation_and_test_use_their_splits():
    family = RandomMLP(data=["digits"], few_probability=0.0)
    rows = {
        "train": len(family.sample_task(generator(0)).task.dataset),
        "validation": len(family.validation().sample_task(generator(0)).task.dataset),
        "test": len(next(iter(family.held_out().values())).dataset),
    }
    assert rows == {"train": 1000, "validation": 400, "test": 397}


def test_a_problem_trains_on_at_most_80_percent_of_a_split():
    family = RandomMLP(data=["digits"], few_probability=0.0)
    problem = family.sample_task(generator(0)).task.sample(generator(1), CPU)
    assert len(problem.full()[1]) == 800
    few = RandomMLP(data=["digits"], few_probability=1.0, few_examples=(100, 200))
    counts = {few.sample_task(generator(k)).task.examples for k in range(20)}
    assert len(counts) > 5 and 100 <= min(counts) <= max(counts) <= 200


def test_held_out_tasks_have_fixed_settings():
    task = RandomMLP().fixed_task(data=("digits",), depth=(2, 2), width=(8, 8))
    assert task.batch_size == 32
    sizes = [tuple(p.shape) for p in task.sample(generator(0), CPU).parameters.values()]
    assert [size for size in sizes if len(size) == 2] == [(8, 64), (8, 8), (10, 8)]
