"""The networks for characters and for images of any size, and their batch normalisation."""

import pytest
import torch
from torch import nn

from meta_train.few_shot.heads.metric import Relation
from meta_train.tasks.episodes.mini_imagenet import MiniImageNetEpisodes
from meta_train.tasks.episodes.networks import make_network, make_shaped_network


def by_hand(name):
    """The bodies that Finn et al. released for Omniglot, with 4 channels, layer by layer."""
    if name == "conv4":
        sizes = [nn.Conv2d(inputs, 4, 3, stride=2, padding=1) for inputs in (1, 4, 4, 4)]
        norms = [nn.BatchNorm2d(4, track_running_stats=False) for _ in sizes]
    else:
        pairs = ((784, 256), (256, 128), (128, 64), (64, 64))
        sizes = [nn.Linear(*pair) for pair in pairs]
        norms = [nn.BatchNorm1d(units, track_running_stats=False) for _, units in pairs]
    layers = [part for pair in zip(sizes, norms, strict=True) for part in (*pair, nn.ReLU())]
    return nn.Sequential(*layers) if name == "conv4" else nn.Sequential(nn.Flatten(), *layers)


@pytest.mark.parametrize("name", ["conv4", "dense"])
@pytest.mark.parametrize("pool", ["mean", "flatten"])
def test_the_network_for_characters_is_the_released_one(name, pool):
    torch.manual_seed(0)
    network = make_network(name, 5, hidden=4, pool=pool)
    torch.manual_seed(0)
    body = by_hand(name)
    features = {"dense": 64, "conv4": 4 if pool == "mean" else 16}[name]
    head = nn.Linear(features, 5)
    images = torch.rand(6, 1, 28, 28)
    maps = body(images)
    if name == "conv4":
        assert maps.shape == (6, 4, 2, 2)
        maps = maps.mean((2, 3)) if pool == "mean" else maps.flatten(1)
    assert torch.equal(network(images), head(maps))
    names = [f"body.{key}" for key in body.state_dict()] + ["head.weight", "head.bias"]
    assert list(network.state_dict()) == names


@pytest.mark.parametrize("name", ["conv4", "dense"])
def test_evaluation_uses_the_statistics_of_the_support_set(name):
    torch.manual_seed(0)
    network = make_network(name, 5, hidden=8, batch_norm="support").double()
    earlier, images = torch.randn(2, 5, 1, 28, 28, dtype=torch.double)
    network.train()(earlier)
    trained = network(images)
    network.eval()
    for _ in range(2):  # and keeps no statistics of what it sees then
        torch.testing.assert_close(network(images), trained)  # in float64: to 1e-7
        network(earlier)


@pytest.mark.parametrize("name", ["conv4", "dense"])
def test_batches_are_normalised_by_themselves_and_leave_nothing(name):
    network = make_network(name, 5, hidden=8)
    assert not list(network.buffers())
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.train()(images), network.eval()(images))


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
