"""Digits: splits, batches and network sizes."""

import pytest
import torch
from sklearn.datasets import load_digits

from meta_train.runtime.seeding import generator
from meta_train.tasks import DigitsMLP
from meta_train.tasks.data import digits

CPU = torch.device("cpu")


def sample(task, seed=0):
    return task.sample(generator("problem", seed), CPU)


def test_splits_of_the_digits_are_disjoint_and_complete():
    rows = []
    for split, count in (("train", 1000), ("validation", 400), ("test", 397)):
        images, labels = sample(DigitsMLP(split=split)).full()
        assert images.shape == (count, 64) and labels.shape == (count,)
        assert images.min() == 0 and images.max() == 1
        rows += [tuple(row) for row in images.tolist()]
    assert len(rows) == 1797
    assert len(set(rows)) == 1797


def test_digits_batches_come_from_their_split():
    problem = sample(DigitsMLP(split="test", batch_size=32))
    known = dict(
        zip(map(tuple, problem.full()[0].tolist()), problem.full()[1].tolist(), strict=True)
    )
    images, labels = problem.draw(generator("batch"))
    assert [known[tuple(row)] for row in images.tolist()] == labels.tolist()


@pytest.mark.parametrize("moved", [False, True])
def test_images_and_labels_are_those_of_scikit_learn(moved, monkeypatch):
    if moved:
        monkeypatch.setattr(digits, "find_spec", lambda name: None)
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    read = digits.read_digits.__wrapped__()
    images = torch.cat([read[split][0] for split in ("train", "validation", "test")])
    assert torch.equal(images.flatten(1), (torch.tensor(pixels)[order] / 16).float())
    found = torch.cat([read[split][1] for split in ("train", "validation", "test")])
    assert torch.equal(found, torch.tensor(labels)[order])


def test_defaults():
    """The bundled weights digits-lstm were meta-trained and evaluated with these."""
    task = DigitsMLP()
    assert (task.split, task.hidden, task.activation) == ("train", (20,), "sigmoid")
    assert task.batch_size == 128
    assert {title: (t.split, t.hidden, t.activation) for title, t in task.held_out().items()} == {
        "same family, held-out images": ("test", (20,), "sigmoid"),
        "wider, 64 units": ("test", (64,), "sigmoid"),
        "ReLU": ("test", (20,), "relu"),
    }
    assert task.validation().split == "validation"


def test_digits_networks_have_the_sizes_asked_for():
    problem = sample(DigitsMLP(hidden=(7, 5), activation="relu"))
    shapes = [tuple(value.shape) for value in problem.parameters.values()]
    assert shapes == [(7, 64), (7,), (5, 7), (5,), (10, 5), (10,)]


def test_optimizers_are_compared_on_the_networks_asked_for():
    variants = {
        "two layers": {"hidden": [20, 20]},
        "ReLU, 5": {"hidden": [5], "activation": "relu"},
    }
    held_out = DigitsMLP(activation="tanh", batch_size=7, variants=variants).held_out()
    assert {title: (t.split, t.hidden, t.activation) for title, t in held_out.items()} == {
        "same family, held-out images": ("test", (20,), "tanh"),
        "two layers": ("test", (20, 20), "tanh"),
        "ReLU, 5": ("test", (5,), "relu"),
    }
    assert {task.batch_size for task in held_out.values()} == {7}


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"width": 3}, "variant 'mine' may set hidden and activation, got width"),
        ({"activation": "step"}, "unknown activation 'step'"),
        ({"hidden": [0]}, "hidden must hold positive sizes, got \\(0,\\)"),
    ],
)
def test_a_variant_that_cannot_be_built_is_refused_at_once(variant, message):
    with pytest.raises(ValueError, match=message):
        DigitsMLP(variants={"mine": variant})
