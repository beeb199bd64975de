"""A loader is read into the same rows each time, whatever it draws from."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from meta_train.tasks.data.in_memory import as_dataset

ROWS = TensorDataset(torch.arange(20.0).unsqueeze(1), torch.arange(20.0).unsqueeze(1))


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)


def shuffled(source):
    return DataLoader(ROWS, batch_size=4, shuffle=True, generator=source)


LOADERS = {
    "shuffle": shuffled,
    "sampler": lambda source: DataLoader(ROWS, 4, sampler=RandomSampler(ROWS, generator=source)),
    "some rows": lambda source: DataLoader(
        ROWS, 4, sampler=RandomSampler(ROWS, num_samples=8, generator=source)
    ),
    "weighted": lambda source: DataLoader(
        ROWS, 4, sampler=WeightedRandomSampler([1.0] * 20, 20, generator=source)
    ),
    "batch sampler": lambda source: DataLoader(
        ROWS, batch_sampler=BatchSampler(RandomSampler(ROWS, generator=source), 4, False)
    ),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_with_its_own_generator_is_read_alike_whenever_it_is_read(kind):
    source = seeded()
    loader = LOADERS[kind](source)
    first = as_dataset(loader).inputs
    again = as_dataset(loader).inputs
    list(loader)  # an epoch of ordinary training between two tasks
    state = source.get_state()
    third = as_dataset(loader).inputs
    assert torch.equal(first, again) and torch.equal(first, third)
    assert torch.equal(source.get_state(), state)


def test_the_order_is_that_of_the_loaders_own_seed():
    expected = torch.cat([inputs for inputs, _ in shuffled(seeded(7))])
    assert torch.equal(as_dataset(shuffled(seeded(7))).inputs, expected)
    assert not torch.equal(as_dataset(shuffled(seeded(8))).inputs, expected)


class Augmented(Dataset):
    """Four rows that a transform moves at random, as augmentations do."""

    def __len__(self):
        return 4

    def __getitem__(self, k):
        moved = torch.rand(1) + random.random() + float(np.random.rand())
        return k + moved, torch.zeros(1)


@pytest.mark.parametrize("make", [Augmented, lambda: DataLoader(Augmented(), 2)])
def test_random_transforms_are_alike_and_global_generators_are_left_alone(make):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    data = make()
    first, second = as_dataset(data).inputs, as_dataset(data).inputs
    assert torch.equal(first, second) and len(first.unique()) == 4
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


def test_generators_are_restored_when_reading_fails():
    class Broken(Augmented):
        def __getitem__(self, k):
            raise RuntimeError("no such row")

    source = seeded()
    source.manual_seed(3)
    torch.rand(1, generator=source)
    state = source.get_state()
    with pytest.raises(RuntimeError, match="no such row"):
        as_dataset(DataLoader(Broken(), 2, shuffle=True, generator=source))
    assert torch.equal(source.get_state(), state)
