"""Families of random networks: defaults, and how many examples a task trains on."""

import pytest
import torch
from conftest import same

from meta_train.runtime.seeding import generator
from meta_train.tasks import Autoencoder, CharRNN, CharTransformer, Conv, RandomMLP, create_task

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


def fingerprints(inputs):
    """Rows as tuples; those that occur once (two patches of plain sky may be equal)."""
    rows = [tuple(row) for row in inputs.flatten(1).tolist()]
    return set(rows)


@pytest.mark.parametrize("name", ["random-mlp", "conv", "autoencoder"])
def test_training_validation_and_held_out_tasks_share_no_example(name):
    family = create_task(name, data=["photos"], few_probability=0.0)
    held_out = next(iter(family.held_out().values()))
    seen = []
    for task in (
        family.sample_task(generator(0)).task,
        family.validation().sample_task(generator(0)).task,
    ):
        seen.append(fingerprints(task.inputs))
    assert not seen[0] & seen[1]
    assert not fingerprints(held_out.inputs) & (seen[0] | seen[1])


def test_tasks_have_few_examples_with_the_given_probability():
    family = create_task("random-mlp", few_probability=0.5, few_examples=(100, 200))
    sizes = [family.sample_task(generator(k)).task.examples for k in range(100)]
    few = [size for size in sizes if size <= 200]
    assert 30 <= len(few) <= 70 and 100 <= min(few)
    assert set(sizes) - set(few) == {800, 7080}


def test_initial_scales_differ_between_problems():
    family = create_task("random-mlp", data=["digits"], scale_spread=0.5, depth=(1, 1))
    task = family.sample_task(generator(0)).task
    problems = [task.sample(generator(k), CPU) for k in range(40)]
    bound = 1 / 8  # nn.Linear's, for 64 inputs
    largest = torch.stack([p.parameters["0.weight"].abs().max() for p in problems]) / bound
    assert 0.55 < largest.min() < 0.75 and 1.35 < largest.max() < 1.65
    assert not same(largest[0], largest[1])
    biases = torch.stack([p.parameters["0.bias"].abs().max() for p in problems])
    assert biases.max() <= bound
