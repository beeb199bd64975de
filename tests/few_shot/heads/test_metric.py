"""Heads that compare query and support images, against values worked out by hand."""

import math

import pytest
import torch

from meta_train.few_shot.heads.metric import (
    Matching,
    NearestNeighbour,
    Prototypical,
    Relation,
    Siamese,
    squared_distances,
)
from meta_train.tasks.episodes.networks import make_network

DOUBLE = {"dtype": torch.float64}

# Two classes in the plane, one of them with two support points.
SUPPORT = torch.tensor([[1.0, 0.0], [0.0, 3.0], [0.0, 1.0]], **DOUBLE)
LABELS = torch.tensor([0, 1, 1])
QUERY = torch.tensor([[2.0, 0.0], [1.0, 1.0]], **DOUBLE)


def head(cls, ways=2, **settings):
    torch.manual_seed(0)
    return cls(make_network("conv4", ways, hidden=2), ways=ways, **settings).double()


def test_prototypes_are_class_means_and_scores_squared_distances():
    proto = head(Prototypical)
    means = torch.tensor([[1.0, 0.0], [0.0, 2.0]], **DOUBLE)
    torch.testing.assert_close(proto.prototypes(SUPPORT, LABELS), means)
    expected = -torch.tensor([[1.0, 8.0], [1.0, 2.0]], **DOUBLE)
    torch.testing.assert_close(proto.scores(SUPPORT, LABELS, QUERY), expected)


def test_prototypical_loss_is_the_cross_entropy():
    loss = head(Prototypical).loss(torch.tensor([[0.0, math.log(3)]]), torch.tensor([0]))
    assert loss == pytest.approx(math.log(4))


def test_matching_attention_by_hand():
    scores = head(Matching).scores(SUPPORT, LABELS, QUERY)
    e, r = math.e, math.exp(math.sqrt(0.5))
    expected = torch.tensor([[e / (e + 2), 2 / (e + 2)], [r / (3 * r), 2 * r / (3 * r)]], **DOUBLE)
    torch.testing.assert_close(scores.exp(), expected)


def test_nearest_neighbour_takes_the_largest_cosine():
    scores = head(NearestNeighbour).scores(SUPPORT, LABELS, QUERY)
    half = math.sqrt(0.5)
    torch.testing.assert_close(scores, torch.tensor([[1.0, 0.0], [half, half]], **DOUBLE))


def test_siamese_scores_are_mean_log_odds_of_weighted_distances():
    siamese = head(Siamese)
    with torch.no_grad():
        siamese.compare.weight.copy_(torch.tensor([[-1.0, -2.0]]))
        siamese.compare.bias.fill_(0.5)
    scores = siamese.scores(SUPPORT, LABELS, QUERY)
    first = [0.5 - 1, 0.5 - (2 + 6 + 2 + 2) / 2]
    second = [0.5 - 2, 0.5 - (1 + 4 + 1 + 0) / 2]
    torch.testing.assert_close(scores, torch.tensor([first, second], **DOUBLE))
    odds = torch.zeros(1, 2, **DOUBLE)
    assert siamese.loss(odds, torch.tensor([0])) == pytest.approx(math.log(2))


def test_relation_compares_the_sum_of_a_class_with_the_query():
    relation = head(Relation).eval()
    support = torch.randn(3, 2, 2, 2, **DOUBLE)
    query = torch.randn(4, 2, 2, 2, **DOUBLE)
    summed = torch.stack([support[0], support[1] + support[2]])
    pairs = torch.stack([torch.cat([c, q]) for q in query for c in summed])
    expected = relation.relation(pairs).reshape(4, 2)
    torch.testing.assert_close(relation.scores(support, LABELS, query), expected)
    loss = relation.loss(torch.tensor([[0.5, 0.5]]), torch.tensor([1]))
    assert loss == pytest.approx(0.25)


def test_relation_needs_maps():
    with pytest.raises(ValueError, match="need architecture conv4"):
        Relation(make_network("dense", 5), ways=5)


def test_squared_distances_have_a_derivative_at_zero():
    point = torch.ones(1, 2, requires_grad=True)
    squared_distances(point, point.detach()).sum().backward()
    assert not point.grad.any()
