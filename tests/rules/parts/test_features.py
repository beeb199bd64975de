import math

import pytest
import torch
from torch.func import vmap

import learned_opt.rules.parts.features
from learned_opt.rules.parts.features import (
    bias_correction,
    euclidean_norm,
    log_sign,
    moving_average,
    safe_sqrt,
)
from learned_opt.rules.parts.whole_tensors import rms


@pytest.mark.parametrize("p", [5.0, 10.0])
@pytest.mark.parametrize("x", [0.0, 1e-9, -1e-9, 1e-3, -0.5, 1.0, -30.0, 1e30])
def test_log_sign_is_the_papers_formula(x, p):
    """Andrychowicz et al. 2016, appendix A."""
    if abs(x) >= math.exp(-p):
        expected = [math.log(abs(x)) / p, math.copysign(1, x)]
    else:
        expected = [-1.0, math.exp(p) * x]
    features = log_sign(torch.tensor([x], dtype=torch.float64), p)
    torch.testing.assert_close(features, torch.tensor([expected], dtype=torch.float64))


def test_log_sign_is_continuous_at_its_threshold():
    edge = math.exp(-10)
    values = torch.tensor([edge * (1 - 1e-9), edge * (1 + 1e-9)], dtype=torch.float64)
    features = log_sign(values, 10.0)
    torch.testing.assert_close(features[0], features[1], rtol=1e-7, atol=1e-7)


def test_log_sign_has_finite_derivatives_at_zero():
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    log_sign(x, 10.0).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, math.exp(10)))


def test_log_sign_keeps_the_shape_and_adds_an_axis():
    assert log_sign(torch.ones(2, 3), 10.0).shape == (2, 3, 2)


def test_safe_sqrt_is_sqrt_with_derivative_zero_at_zero():
    x = torch.tensor([0.0, 4.0], requires_grad=True)
    root = safe_sqrt(x)
    root.sum().backward()
    assert root.tolist() == [0.0, 2.0]
    assert x.grad.tolist() == [0.0, 0.25]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_safe_sqrt_hides_no_overflow(value):
    root = safe_sqrt(torch.tensor(value))
    torch.testing.assert_close(root, torch.tensor(value), equal_nan=True)


def test_moving_average_moves_by_one_minus_beta():
    average = moving_average(torch.tensor(2.0), torch.tensor(12.0), 0.9)
    torch.testing.assert_close(average, torch.tensor(3.0))


def test_moving_average_of_an_overflow_stays_infinite():
    average = torch.tensor(0.0)
    for value in (math.inf, 1.0):
        average = moving_average(average, torch.tensor(value), 0.9)
    assert average == math.inf


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.999999])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_bias_correction_keeps_its_digits_in_float32(beta, step):
    factor = bias_correction(torch.tensor(float(step)), beta)
    assert float(factor) == pytest.approx(1 - beta**step, rel=1e-6)


@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (10,), (25,), (5, 21), (2, 3, 4, 5)])
def test_a_norm_by_blocks_is_the_norm(shape, monkeypatch):
    monkeypatch.setattr(learned_opt.rules.parts.features, "NORM_BLOCK", 10)
    value = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value.requires_grad_(True)
    norm = euclidean_norm(value)
    expected = value.square().sum().sqrt()
    torch.testing.assert_close(norm, expected)
    if value.numel():
        (ours,), (theirs,) = (torch.autograd.grad(one, value) for one in (norm, expected))
        torch.testing.assert_close(ours, theirs)
    rows = torch.stack([value.detach(), 2 * value.detach()])
    torch.testing.assert_close(vmap(euclidean_norm)(rows), torch.stack([norm, 2 * norm]).detach())


def test_norms_of_large_tensors_keep_their_digits():
    """`vector_norm` is 1% off here, and 4% at four times the size."""
    value = torch.full((25_000_000,), 0.4)
    assert euclidean_norm(value).item() == pytest.approx(2000.0, rel=2e-5)
    assert rms(value).item() == pytest.approx(0.4, rel=2e-5)
