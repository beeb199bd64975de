"""The networks' batch normalisation."""

import pytest
import torch

from meta_train.tasks.episodes.networks import make_network


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
