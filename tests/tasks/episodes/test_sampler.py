import itertools

import pytest
import torch

from meta_train.runtime.seeding import generator
from meta_train.tasks.episodes.sampler import EpisodeSampler, rotated

CPU = torch.device("cpu")


def numbered(classes=6, per_class=7):
    """Images that say by their pixels which class and which image of it they are."""
    images = torch.zeros(classes, per_class, 4, 4, dtype=torch.uint8)
    images[..., 0, 0] = torch.arange(1, classes + 1)[:, None]
    images[..., 0, 1] = torch.arange(1, per_class + 1)
    return images


def identities(images):
    """(class, image, turns) of images `[M, 1, 4, 4]`."""
    found = []
    for image in (images[:, 0] * 255).round().int():
        turns = next(k for k in range(4) if torch.rot90(image, -k)[0, 0])
        upright = torch.rot90(image, -turns)
        found.append((int(upright[0, 0]), int(upright[0, 1]), turns))
    return found


@pytest.mark.parametrize("rotations", [False, True])
def test_an_episode_has_distinct_classes_and_no_image_twice(rotations):
    sampler = EpisodeSampler(numbered(), ways=4, shots=2, queries=3, rotations=rotations)
    for seed in range(20):
        episode = sampler.draw(generator(seed), CPU)
        assert episode.support_x.shape == (8, 1, 4, 4) and episode.query_x.shape == (12, 1, 4, 4)
        seen = [*identities(episode.support_x), *identities(episode.query_x)]
        assert len(set(seen)) == 20
        by_label = {}
        labels = [*episode.support_y.tolist(), *episode.query_y.tolist()]
        for label, (number, _, turns) in zip(labels, seen, strict=True):
            by_label.setdefault(label, set()).add((number, turns))
        assert sorted(by_label) == [0, 1, 2, 3]
        assert all(len(classes) == 1 for classes in by_label.values())
        assert len(set.union(*by_label.values())) == 4
        assert rotations or all(turns == 0 for _, _, turns in seen)


def test_rotated_classes_are_all_drawn():
    sampler = EpisodeSampler(numbered(2, 3), ways=8, shots=1, queries=1)
    seen = identities(sampler.draw(generator(0), CPU).support_x)
    assert {(number, turns) for number, _, turns in seen} == set(
        itertools.product((1, 2), range(4))
    )


def test_rotation_turns_every_image():
    images = numbered()
    turned = rotated(images)
    assert torch.equal(turned[:6], images)
    assert torch.equal(turned[12:18].flip(2, 3), images)


def test_pixels_are_between_0_and_1():
    sampler = EpisodeSampler(
        torch.full((3, 3, 2, 2), 255, dtype=torch.uint8), ways=2, shots=1, queries=1
    )
    assert torch.equal(sampler.draw(generator(0), CPU).query_x, torch.ones(2, 1, 2, 2))


def test_equal_generators_draw_equal_episodes():
    sampler = EpisodeSampler(numbered(), ways=3, shots=1, queries=1)
    first, again, other = (sampler.draw(generator(seed), CPU) for seed in (0, 0, 1))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first.support_x, other.support_x)


def test_classes_and_images_are_drawn_evenly():
    sampler = EpisodeSampler(numbered(), ways=2, shots=1, queries=1, rotations=False)
    source = generator(0)
    seen = [found for _ in range(600) for found in identities(sampler.draw(source, CPU).support_x)]
    for place, many in ((0, 6), (1, 7)):
        counts = [sum(one[place] == k + 1 for one in seen) for k in range(many)]
        assert min(counts) > 0.7 * 1200 / many


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ways": 25}, "ways must be from 1 to the 24 classes, got 25"),
        ({"shots": 5, "queries": 3}, "at most the 7 images of a class, got 5 and 3"),
        ({"queries": 0}, "at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EpisodeSampler(numbered(), **{"ways": 2, "shots": 1, "queries": 1, **settings})
