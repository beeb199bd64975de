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
from meta_train.few_shot.heads.nearest_prototype import CosinePrototype, EuclideanPrototype
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


def test_nearest_prototypes_are_means_of_normalised_embeddings():
    # Support: (1, 0); (0, 1) twice after normalising. Queries: (1, 0) and (h, h).
    half = math.sqrt(0.5)
    cosines = torch.tensor([[1.0, 0.0], [half, half]], **DOUBLE)
    torch.testing.assert_close(head(CosinePrototype).scores(SUPPORT, LABELS, QUERY), cosines)
    # Of two directions the mean is shorter than 1: its cosine counts, and its distance differs.
    support = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0]], **DOUBLE)
    expected = torch.tensor([[1.0, half], [half, 1.0]], **DOUBLE)
    torch.testing.assert_close(head(CosinePrototype).scores(support, LABELS, QUERY), expected)
    distances = torch.tensor([[0.0, 0.5], [2 - 2 * half, 2 * (half - 0.5) ** 2]], **DOUBLE)
    torch.testing.assert_close(head(EuclideanPrototype).scores(support, LABELS, QUERY), -distances)


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (Prototypical, [[-1.0, -13.0, -5.0], [-1.0, -5.0, -1.0]]),
        (Matching, [[1.0, 0.0, 0.0], [0.5**0.5] * 3]),
        (NearestNeighbour, [[1.0, 0.0, 0.0], [0.5**0.5] * 3]),
        (CosinePrototype, [[1.0, 0.0, 0.0], [0.5**0.5] * 3]),
        (EuclideanPrototype, [[0.0, -2.0, -2.0], [2**0.5 - 2] * 3]),
        (Siamese, [[-0.5, -2.5, -1.5], [-0.5, -1.5, -0.5]]),
    ],
)
def test_scores_of_pairs_by_hand(cls, expected):
    found = head(cls).pair_scores(SUPPORT, QUERY)
    if cls is Siamese:  # Its first weights are -1 / features, here -1 / 2; its bias is random.
        found = found - head(cls).compare.bias
    torch.testing.assert_close(found, torch.tensor(expected, **DOUBLE))


def test_relations_of_pairs_are_those_of_classes_of_one_image():
    relation = head(Relation).eval()
    support, query = torch.randn(2, 2, 2, 2, **DOUBLE), torch.randn(4, 2, 2, 2, **DOUBLE)
    scores = relation.scores(support, torch.tensor([0, 1]), query)
    torch.testing.assert_close(relation.pair_scores(support, query), scores)


def test_relation_needs_maps():
    with pytest.raises(ValueError, match="need architecture conv4"):
        Relation(make_network("dense", 5), ways=5)


def test_squared_distances_have_a_derivative_at_zero():
    point = torch.ones(1, 2, requires_grad=True)
    squared_distances(point, point.detach()).sum().backward()
    assert not point.grad.any()
