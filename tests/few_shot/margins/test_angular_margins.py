"""SphereFace, CosFace and ArcFace: scores against angles, gradients at their ends, refusals."""

import math

import pytest
import torch

from meta_train.few_shot.margins.arcface import ArcFace
from meta_train.few_shot.margins.cosface import CosFace
from meta_train.few_shot.margins.sphereface import SphereFace, chebyshev

DOUBLE = torch.float64
ANGLES = torch.linspace(0, math.pi, 1001, dtype=DOUBLE)
STEP = torch.tensor(0)
LOSSES = {"sphereface": SphereFace, "cosface": CosFace, "arcface": ArcFace}


def in_the_plane(loss, angles_of_weights, lengths):
    """A loss of two features, whose weight vectors have these angles and lengths."""
    with torch.no_grad():
        loss.double()
        for row, (angle, length) in enumerate(zip(angles_of_weights, lengths, strict=True)):
            loss.weight[row] = length * torch.tensor([math.cos(angle), math.sin(angle)])
    return loss


def at(angle, length=1.0):
    return length * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=DOUBLE)


def test_cosface_takes_the_margin_from_the_own_cosine():
    loss = in_the_plane(CosFace(classes=3, features=2), [0.0, 1.0, 2.0], [1.0, 0.2, 7.0])
    embedded, own = at(0.7, 3.0), torch.tensor([1])
    expected = [16 * math.cos(0.7), 16 * (math.cos(0.3) - 0.35), 16 * math.cos(1.3)]
    scores = loss.scores(embedded, own, STEP)
    torch.testing.assert_close(scores, torch.tensor([expected], dtype=DOUBLE))
    total = sum(math.exp(score) for score in expected)
    assert loss(embedded, own, STEP).item() == pytest.approx(math.log(total) - expected[1])


def test_arcface_adds_the_margin_to_the_own_angle():
    loss = in_the_plane(ArcFace(classes=3, features=2, scale=20), [0.0, 1.0, 2.0], [1, 1, 1])
    expected = [20 * math.cos(0.7), 20 * math.cos(0.3 + 0.5), 20 * math.cos(1.3)]
    scores = loss.scores(at(0.7), torch.tensor([1]), STEP)
    torch.testing.assert_close(scores, torch.tensor([expected], dtype=DOUBLE))


def test_arcface_falls_with_the_angle_up_to_pi():
    made = ArcFace(classes=2, features=2)
    values = made.with_margin(ANGLES.cos(), STEP)
    assert (values.diff() < 0).all()
    inner = ANGLES < math.pi - 0.5
    # The sine is at least 1e-6, for the derivative.
    torch.testing.assert_close(values[inner], (ANGLES[inner] + 0.5).cos(), atol=1e-6, rtol=0)
    outer = ANGLES > math.pi - 0.5
    torch.testing.assert_close(values[outer], ANGLES[outer].cos() - 0.5 * math.sin(0.5))


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_psi_is_the_papers_in_every_part_and_falls(m):
    made = SphereFace(classes=2, features=2, margin=m)
    values = made.psi(ANGLES.cos())
    for angle, value in zip(ANGLES.tolist(), values.tolist(), strict=True):
        k = min(int(angle * m / math.pi), m - 1)
        assert value == pytest.approx((-1) ** k * math.cos(m * angle) - 2 * k, abs=1e-12)
    assert (values.diff() < 0).all()
    assert values[0] == 1 and values[-1].item() == pytest.approx(1 - 2 * m)


def test_sphereface_keeps_the_length_of_embeddings_and_mixes_by_lambda():
    loss = in_the_plane(SphereFace(classes=2, features=2), [0.0, 1.0], [5.0, 0.1])
    # theta = 0.8 lies in the second quarter of m = 4: psi = -cos(3.2) - 2.
    psi = -math.cos(3.2) - 2
    for outer_step, weight in ((0, 1000.0), (100, 1000 / 13), (10_000, 5.0)):
        own = (weight * math.cos(0.8) + psi) / (1 + weight)
        scores = loss.scores(at(0.8, 3.0), torch.tensor([0]), torch.tensor(outer_step))
        expected = torch.tensor([[3 * own, 3 * math.cos(0.2)]], dtype=DOUBLE)
        torch.testing.assert_close(scores, expected, rtol=1e-6, atol=0)


def test_chebyshev_polynomials_are_cosines_of_multiples():
    for degree in range(1, 7):
        torch.testing.assert_close(chebyshev(degree, ANGLES.cos()), (degree * ANGLES).cos())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_gradients_are_finite_where_cosines_are_one_and_minus_one(name, dtype):
    loss = LOSSES[name](classes=2, features=3).to(dtype)
    direction = torch.tensor([1.0, 2.0, 2.0], dtype=dtype)
    with torch.no_grad():
        loss.weight[0], loss.weight[1] = direction, -direction
    for embedded in (direction, -direction, 1e-3 * direction, torch.zeros_like(direction)):
        x = embedded.clone().unsqueeze(0).requires_grad_()
        value = loss(x, torch.tensor([0]), STEP)
        gradients = torch.autograd.grad(value, [x, loss.weight])
        assert value.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
        # Of the exact cosine, not of a neighbouring one: rounding may give 1 + 1e-7.
        for cosine in (1.0, -1.0, 1 + 1e-7):
            c = torch.tensor([[cosine]], dtype=dtype, requires_grad=True)
            (slope,) = torch.autograd.grad(loss.with_margin(c, STEP).sum(), c)
            assert slope.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name):
    torch.manual_seed(0)
    loss = LOSSES[name](classes=5, features=4).double()
    labels, late = torch.tensor([3, 0, 4]), torch.tensor(3000)
    inputs = [torch.randn(3, 4, dtype=DOUBLE, requires_grad=True), loss.weight]

    def value(embedded, weight):
        own = torch.func.functional_call(loss, {"weight": weight}, (embedded, labels, late))
        assert isinstance(own, torch.Tensor)
        return own

    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("name", LOSSES)
def test_a_margin_raises_the_loss_and_no_margin_is_plain_cosines(name):
    torch.manual_seed(0)
    embedded, labels = torch.randn(6, 4), torch.arange(6) % 5
    late = torch.tensor(10_000)
    without = {"margin": 1} if name == "sphereface" else {"margin": 0.0}
    plain, usual = (LOSSES[name](classes=5, features=4, **own) for own in (without, {}))
    plain.load_state_dict(usual.state_dict())
    assert usual(embedded, labels, late) > plain(embedded, labels, late)
    units = torch.nn.functional.normalize
    cosines = units(embedded, dim=1) @ units(usual.weight, dim=1).T
    scale = embedded.norm(dim=1, keepdim=True) if name == "sphereface" else 16.0
    torch.testing.assert_close(plain.scores(embedded, labels, late), scale * cosines)


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (ArcFace, {"scale": 0.0}, "scale must be positive, got 0.0"),
        (ArcFace, {"margin": -0.1}, "margin must not be negative, got -0.1"),
        (ArcFace, {"margin": 3.2}, "margin must be less than pi, got 3.2"),
        (CosFace, {"scale": -1.0}, "scale must be positive, got -1.0"),
        (CosFace, {"margin": -0.1}, "margin must not be negative, got -0.1"),
        (SphereFace, {"margin": math.inf}, "margin must be a whole number, got inf"),
        (SphereFace, {"margin": 2.5}, "margin must be a whole number, got 2.5"),
        (SphereFace, {"margin": 0}, "margin must be at least 1, got 0"),
        (SphereFace, {"floor": -1.0}, "floor must not be negative, got -1.0"),
        (CosFace, {"classes": 1}, "classes must be at least 2, got 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(cls, settings, message):
    with pytest.raises(ValueError) as error:
        cls(**{"classes": 4, "features": 2, **settings})
    assert str(error.value) == message
