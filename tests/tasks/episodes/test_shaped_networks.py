"""Networks for images of any size."""

import pytest
import torch

from meta_train.few_shot.heads.metric import Relation
from meta_train.tasks.episodes.mini_imagenet import MiniImageNetEpisodes
from meta_train.tasks.episodes.networks import make_network
from meta_train.tasks.episodes.shaped_networks import make_shaped_network


@pytest.mark.parametrize("name", ["conv4", "dense"])
@pytest.mark.parametrize("pool", ["mean", "flatten"])
@pytest.mark.parametrize("batch_norm", ["batch", "support"])
def test_at_omniglots_size_they_are_omniglots_networks(name, pool, batch_norm):
    made = []
    for make in (
        lambda: make_network(name, 5, hidden=4, pool=pool, batch_norm=batch_norm),
        lambda: make_shaped_network(
            name, (1, 28, 28), 5, hidden=4, pool=pool, batch_norm=batch_norm
        ),
    ):
        torch.manual_seed(0)
        made.append(make())
    first, second = (dict(network.state_dict()) for network in made)
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)
    images = torch.rand(6, 1, 28, 28)
    assert torch.equal(made[0](images), made[1](images))


@pytest.mark.parametrize(
    ("shape", "halve", "places"),
    [
        ((3, 84, 84), "max-pool", 25),
        ((1, 1, 40), "stride", 3),
        ((1, 28, 28), "max-pool", 1),
        ((2, 20, 33), "stride", 6),
    ],
)
def test_features_are_the_places_of_the_last_map(shape, halve, places):
    for pool in ("flatten", "mean"):
        network = make_shaped_network("conv4", shape, 7, hidden=3, pool=pool, halve=halve)
        features = network.body(torch.rand(2, *shape))
        assert features.shape == (2, 3 * places if pool == "flatten" else 3)
        assert network(torch.rand(2, *shape)).shape == (2, 7)
        assert (features >= 0).all()
        relation = Relation(network, ways=2)
        with torch.no_grad():
            maps = relation.embed(torch.rand(2, *shape), torch.rand(3, *shape))
        scores = relation.scores(maps[0].reshape(2, 3, places, 1), torch.tensor([0, 1]),
                                 maps[1].reshape(3, 3, places, 1))  # fmt: skip
        assert scores.shape == (3, 2)


def test_the_papers_sizes_on_mini_imagenet():
    """32 channels: MAML's 32,901 weights of 5-way; 64 channels: 113,088 of the embedding."""
    small = MiniImageNetEpisodes(ways=5).network
    assert sum(p.numel() for p in small.parameters()) == 32_901
    body = MiniImageNetEpisodes(ways=5, hidden=64).network.body
    assert sum(p.numel() for p in body.parameters()) == 113_088
    assert body(torch.rand(2, 3, 84, 84)).shape == (2, 1600)


def test_a_block_with_max_pooling_by_hand():
    torch.manual_seed(0)
    network = make_shaped_network("conv4", (1, 16, 16), 2, hidden=2, halve="max-pool")
    conv, norm, relu, pool = list(network.body)[:4]
    images = torch.rand(3, 1, 16, 16)
    maps = conv(images)
    mean = maps.mean((0, 2, 3), keepdim=True)
    spread = (maps.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    normal = ((maps - mean) / spread).clamp(min=0)
    expected = normal.unflatten(2, (8, 2)).unflatten(4, (8, 2)).amax((3, 5))
    assert maps.shape == (3, 2, 16, 16)
    torch.testing.assert_close(pool(relu(norm(maps))), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "conv5"}, "did you mean 'conv4'"),
        ({"halve": "pool"}, "did you mean 'max-pool'"),
        ({"pool": "sum"}, "unknown pool 'sum'"),
        ({"batch_norm": "running"}, "unknown batch_norm 'running'"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"halve": "max-pool"}, "images of 8 x 8 are too small to pool four times"),
    ],
)
def test_impossible_networks_are_refused(settings, message):
    given = {"name": "conv4", "shape": (1, 8, 8), "outputs": 2, **settings}
    with pytest.raises(ValueError, match=message):
        make_shaped_network(**given)
