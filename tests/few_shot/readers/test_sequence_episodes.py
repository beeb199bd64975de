"""Sequences of images and classes: what is drawn, what is learned, and how it is counted."""

import pytest
import torch
from few_shot_cases import MadeUp

from meta_train.few_shot.readers.episodes import SequenceEpisodes, shrunk
from meta_train.few_shot.readers.evaluation import by_instance, evaluate_by_instance
from meta_train.runtime.seeding import generator

CPU = torch.device("cpu")


def sequences(reader="lstm", ways=3, **settings):
    given = {"instances": 4, "sequences": 5, "units": 16, **settings}
    return SequenceEpisodes(MadeUp(ways=ways), reader, **given)


def test_a_sequence_has_each_class_as_often_in_random_order():
    task = sequences()
    images, labels = task.sample(generator(0), CPU).full()
    assert images.shape == (5, 12, 400) and labels.shape == (5, 12)
    assert all(row.bincount().tolist() == [4, 4, 4] for row in labels)
    assert len({tuple(row.tolist()) for row in labels}) == 5
    assert 0 <= images.min() and images.max() <= 1
    again = task.sample(generator(0), CPU).full()
    assert torch.equal(images, again[0]) and torch.equal(labels, again[1])


def test_images_of_a_label_are_of_one_class_and_differ():
    images, labels = sequences().sample(generator(0), CPU).full()
    for row in range(5):
        for label in range(3):
            own = images[row][labels[row] == label]
            other = images[row][labels[row] != label]
            within = torch.cdist(own, own)
            assert (within[~torch.eye(4, dtype=torch.bool)] > 0).all()
            assert within.max() < torch.cdist(own, other).min()


def test_the_number_of_a_class_changes_from_sequence_to_sequence():
    """The nearest image of another sequence often has another number: nothing fixed to learn."""
    task = sequences(ways=5, sequences=40)
    images, labels = task.sample(generator(0), CPU).full()
    same = []
    for row in range(1, 40):
        nearest = torch.cdist(images[row], images[0]).min(1)
        close = nearest.values < 1.5  # The same class; others are farther than 2.
        same += (labels[0][nearest.indices[close]] == labels[row][close]).tolist()
    assert len(same) > 100 and 0.1 < sum(same) / len(same) < 0.35


def test_images_are_averaged_over_areas():
    images = torch.zeros(1, 2, 3, 40, 10, dtype=torch.uint8)
    images[0, 1, 2, 0, 4], images[0, 1, 2, 1, 4] = 9, 20  # Averaged over two rows.
    small = shrunk(images)
    assert small.shape == (1, 2, 3, 20, 10) and small.dtype == torch.uint8
    assert small.nonzero().tolist() == [[0, 1, 2, 0, 4]] and small.max() == 14  # Of 14.5.
    assert torch.equal(shrunk(small), small)


def test_accuracy_is_counted_by_instance():
    labels = torch.tensor([[0, 1, 1, 0, 0, 1], [1, 1, 1, 0, 0, 0]])
    right = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 1, 1, 1, 0, 1]], dtype=torch.bool)
    # First images of a class, then second ones, then third ones.
    assert by_instance(right, labels, 3).tolist() == [[0.5, 0.5], [1.0, 0.5], [0.5, 1.0]]


def test_evaluation_is_a_loop_over_sequences():
    task = sequences("mann")
    parameters = task.template(seed=3)
    found = evaluate_by_instance(task, parameters, episodes=60, seed=7)
    assert (found.metric, found.steps, found.counts) == ("accuracy", (1, 2, 3, 4), "instance")
    assert found.values.shape == (4, 60) and found.diverged == 0
    for index in (0, 49, 50, 59):
        images, labels = task.draw_sequence(generator(7, "episode", index), CPU)
        scores = task.predict(parameters, images[None], labels[None])[0]
        counts, hits = {}, {k: [] for k in range(1, 5)}
        for score, label in zip(scores, labels.tolist(), strict=True):
            counts[label] = counts.get(label, 0) + 1
            hits[counts[label]].append(float(score.argmax() == label))
        expected = torch.tensor([sum(hits[k]) / 3 for k in range(1, 5)])
        torch.testing.assert_close(found.values[:, index], expected)
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        evaluate_by_instance(task, parameters, episodes=0)


@pytest.mark.parametrize("reader", ["lstm", "mann"])
def test_a_reader_learns_sequences_by_heart(reader):
    task = sequences(reader, ways=2, units=32)
    batch = task.sample(generator(0), CPU).full()
    parameters = {k: v.clone().requires_grad_() for k, v in task.template().items()}
    optimizer = torch.optim.Adam(parameters.values(), 1e-2)
    losses = []
    for _ in range(60):
        loss, buffers = task.loss(parameters, {}, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert buffers == {} and 0.6 < losses[0] < 0.8 and losses[-1] < 0.2


def test_impossible_sequences_are_refused():
    for settings, message in (
        ({"instances": 1}, "instances must be at least 2, got 1"),
        ({"sequences": 0}, "sequences must be at least 1, got 0"),
        ({"unit": 4}, "did you mean 'units'"),
        ({"units": 0}, "units must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            sequences(**settings)
    with pytest.raises(ValueError, match="did you mean 'mann'"):
        SequenceEpisodes(MadeUp(), "man")
    with pytest.raises(ValueError, match="at most the 8 images of a class, got 8 and 1"):
        sequences(instances=9).sample(generator(0), CPU)
