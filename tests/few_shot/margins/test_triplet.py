"""The triplet loss against triplets chosen one by one."""

import math

import pytest
import torch
from torch.func import vmap

from meta_train.few_shot.margins.triplet import Triplet

STEP = torch.tensor(0)


def on_the_circle(*degrees):
    angles = [math.radians(degree) for degree in degrees]
    return torch.tensor([[math.cos(a), math.sin(a)] for a in angles], dtype=torch.float64)


def squared(degrees):
    """Squared distance of two points of the unit circle, by their angle."""
    return 2 - 2 * math.cos(math.radians(degrees))


def test_the_nearest_negative_that_is_farther_than_the_positive_counts():
    loss = Triplet(classes=2, features=2)
    # Lengths do not matter. Anchor 0 has its positive at 20; negatives are at 15, 24 and 90.
    embedded = on_the_circle(0, 20, -15, 24, 90)
    embedded = embedded * torch.tensor([[1.0], [2], [3], [4], [5]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 1])
    pairs = [
        (20, 24),  # anchor 0, positive 20: -15 is nearer than the positive, 24 is the next
        (20, 35),  # anchor 20, positive 0: 24 lies 4 away, nearer than 0, and -15 lies 35 away
        (39, 35),  # anchor -15, positive 24: no negative is farther than 39; 20 is the farthest
        (105, 35),  # anchor -15, positive 90
        (39, 24),  # anchor 24, positive -15: 0 lies 24 away and is the farthest
        (66, 24),  # anchor 24, positive 90
        (105, 90),  # anchor 90, positive -15: 0 is the farthest
        (66, 70),  # anchor 90, positive 24: 20 lies 70 away
    ]
    terms = [max(0.0, squared(p) - squared(n) + 0.2) for p, n in pairs]
    assert 0 in terms[:2]
    found = loss(embedded, labels, STEP)
    assert found.item() == pytest.approx(sum(terms) / 8, rel=1e-12)


def test_a_negative_as_far_as_the_positive_is_not_farther():
    corners = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [-1.0, 0.0]])
    # Each anchor has its positive and one negative at 2, and its other negative at 4.
    assert Triplet(classes=2, features=2)(corners, torch.tensor([0, 0, 1, 1]), STEP) == 0


def reference(embedded, labels, margin):
    """The mean over pairs, with loops."""
    rows = [[x / math.dist(row, [0.0] * len(row)) for x in row] for row in embedded.tolist()]
    names = labels.tolist()
    terms = []
    for a, anchor in enumerate(rows):
        negatives = [
            math.dist(anchor, rows[n]) ** 2 for n in range(len(rows)) if names[n] != names[a]
        ]
        for p, positive in enumerate(rows):
            if p == a or names[p] != names[a]:
                continue
            near = math.dist(anchor, positive) ** 2
            farther = [distance for distance in negatives if distance > near]
            negative = min(farther) if farther else max(negatives)
            terms.append(max(0.0, near - negative + margin))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("seed", range(3))
def test_random_batches_equal_loops_alone_and_under_vmap(seed):
    torch.manual_seed(seed)
    embedded = torch.randn(2, 12, 5, dtype=torch.float64)
    labels = torch.arange(12).remainder(4).expand(2, 12)
    loss = Triplet(classes=4, features=5, margin=0.6)
    expected = [reference(one, labels[0], 0.6) for one in embedded]
    assert [loss(one, labels[0], STEP).item() for one in embedded] == pytest.approx(expected)
    together = vmap(loss, (0, 0, None))(embedded, labels, STEP)
    assert together.tolist() == pytest.approx(expected)


def test_gradients_are_finite_for_equal_and_for_zero_embeddings():
    labels = torch.tensor([0, 0, 1, 1])
    for embedded in (torch.ones(4, 3), torch.zeros(4, 3)):
        x = embedded.requires_grad_()
        value = Triplet(classes=2, features=3)(x, labels, STEP)
        assert value.item() == pytest.approx(0.2)
        value.backward()
        assert x.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    loss, labels = Triplet(classes=3, features=4, margin=0.5), torch.tensor([0, 0, 1, 1, 2, 2])
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda embedded: loss(embedded, labels, STEP), x)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": 0.0}, "margin must be positive, got 0.0"),
        ({"drawings": 1}, "drawings must be at least 2, got 1"),
        ({"drawings": 2.5}, "drawings must be a whole number, got 2.5"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError) as error:
        Triplet(classes=4, features=2, **settings)
    assert str(error.value) == message
