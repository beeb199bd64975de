import numpy as np
import pytest
import torch

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.rules.parts.pace import cosine_from_lengths, next_pace


def number(value, dtype=torch.float64):
    return torch.tensor(value, dtype=dtype)


@pytest.mark.parametrize("keep", [0.64, 0.9])
@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
@pytest.mark.parametrize("ratio", [1.0, 20.0, 0.05])
def test_the_cosine_is_found_from_lengths(keep, scale, ratio):
    random = np.random.default_rng(0)
    g, m = random.normal(size=50), random.normal(size=50) - 0.3
    expected = g @ m / np.sqrt((g @ g) * (m @ m))
    g, m = scale * g, ratio * scale * m
    lengths = [np.linalg.norm(x) for x in (g, m, keep * m + (1 - keep) * g)]
    found = cosine_from_lengths(*(number(x, torch.float32) for x in lengths), keep)
    assert float(found) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("gradient", "momentum", "mixed", "keep"),
    [(0.0, 1.0, 0.9, 0.9), (1.0, 0.0, 0.1, 0.9), (0.0, 0.0, 0.0, 0.9), (1.0, 1.0, 1.0, 0.0),
     (1e-6, 1.0, 0.9, 0.9), (1.0, 1e-6, 0.1, 0.9)],
)  # fmt: skip
def test_a_cosine_that_cannot_be_told_is_0(gradient, momentum, mixed, keep):
    lengths = [number(x).requires_grad_() for x in (gradient, momentum, mixed)]
    found = cosine_from_lengths(*lengths, keep)
    assert float(found.detach()) == 0
    assert all(x.isfinite() for x in torch.autograd.grad(found, lengths))


@pytest.mark.parametrize(
    ("pace", "cosine", "step", "distance", "expected"),
    [
        (0.0, 1.0, 2.0, 0.0, 0.06),
        (0.0, 0.2, 2.0, 0.0, 0.0),
        (-1.0, 0.4, 8.0, None, -0.99),
        (0.2, -0.5, 20.0, 0.0, 0.19),
        (0.99, 1.0, 2.0, 0.15, 1.0),
        (0.99, 1.0, 2.0, 0.16, 0.8),
        (0.99, 1.0, 2.0, 0.19, 0.2),
        (0.5, 1.0, 2.0, 0.2, 0.0),
        (0.5, 1.0, 2.0, 3.0, 0.0),
        (-1.0, 1.0, 2.0, 3.0, -0.94),
        (-0.01, 1.0, 2.0, None, 0.0),
        (-2.99, -1.0, 2.0, 0.0, -3.0),
    ],
)
def test_the_pace_follows_the_cosine_within_its_bounds(pace, cosine, step, distance, expected):
    distance = None if distance is None else number(distance)
    found = next_pace(number(pace), number(cosine), number(step), distance=distance)
    assert float(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("shape", "fastest"), [((4, 6), 1.0), ((5,), 0.0)])
def test_steps_grow_on_a_slope_shrink_in_a_valley_and_stay_in_noise(shape, fastest):
    found = {}
    for name in ("slope", "valley", "noise"):
        rule = create_rule("orthogonal-momentum").double()
        parameter = torch.nn.Parameter(torch.ones(shape, dtype=torch.float64))
        optimizer = LearnedOptimizer([parameter], rule=rule)
        generator = torch.Generator().manual_seed(0)
        fixed = torch.randn(shape, generator=generator, dtype=torch.float64)
        for t in range(100):
            fresh = torch.randn(shape, generator=generator, dtype=torch.float64)
            parameter.grad = {"slope": fixed, "valley": (-1) ** t * fixed, "noise": fresh}[name]
            optimizer.step()
        found[name] = float(optimizer.state[parameter]["scalars"][2])
    assert found["slope"] == fastest
    assert found["valley"] == pytest.approx(-0.6 * sum(1 / (t + 10) for t in range(2, 101)))
    assert abs(found["noise"]) < 0.3


@pytest.mark.parametrize(("length", "expected"), [(100.0, 1.0), (0.01, 0.0)])
def test_a_matrix_that_circles_far_from_its_average_has_no_longer_steps(length, expected):
    """The same gradients move a large matrix by a small share of itself; its steps grow."""
    parameter = torch.nn.Parameter(torch.full((4, 6), length, dtype=torch.float64))
    optimizer = LearnedOptimizer([parameter], rule=create_rule("orthogonal-momentum").double())
    generator = torch.Generator().manual_seed(0)
    east, north = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    for t in range(200):
        angle = torch.tensor(2 * np.pi * t / 60)
        parameter.grad = angle.cos() * east + angle.sin() * north
        optimizer.step()
    assert float(optimizer.state[parameter]["scalars"][2]) == expected
