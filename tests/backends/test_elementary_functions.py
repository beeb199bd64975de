"""The exponential, sigmoid, tangent and logarithm of faster code, against float64."""

import math

import pytest
import torch

from learned_opt.backends.blocks.lstm_cell import tangent_of_half_
from learned_opt.c_library import call_c, load_library

compiled = pytest.mark.skipif(load_library() is None, reason="the C library was not compiled")


def of_every_exponent(lowest, highest, count=200):
    """Floats with random digits, `count` for each power of two."""
    digits = 1 + torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    powers = 2.0 ** torch.arange(lowest, highest, dtype=torch.float64)
    return (digits * powers.unsqueeze(-1)).reshape(-1).float()


@compiled
@pytest.mark.parametrize(
    ("which", "exact", "values"),
    [
        (0, torch.exp, (-126, 6)),
        (1, torch.sigmoid, (-126, 6)),
        (2, torch.tanh, (-126, 6)),
        (3, torch.log, (-126, 127)),
    ],
    ids=["exponential", "sigmoid", "hyperbolic tangent", "logarithm"],
)
def test_elementary_functions_are_within_three_units_in_the_last_place(which, exact, values):
    x = of_every_exponent(*values)
    if which != 3:
        x = torch.cat([x, -x, torch.zeros(1)])
        x = x[x.abs() <= 87]
    y = torch.empty_like(x)
    call_c("elementary", which, len(x), x.numpy(), y.numpy())
    expected = exact(x.double())
    unit = 2.0 ** (expected.abs().clamp(min=2.0**-126).log2().floor() - 23)
    assert ((y.double() - expected).abs() / unit).max() <= 3
    ends = torch.tensor([math.nan, 1e30, -1e30])
    call_c("elementary", which, 3, ends.numpy(), (at := torch.empty(3)).numpy())
    assert which == 3 or math.isnan(at[0])
    assert which == 3 or at[1:].isfinite().all()


@torch.inference_mode()
def test_the_tangent_in_blocks_is_within_three_units_in_the_last_place():
    x = of_every_exponent(-126, 6)
    x = torch.cat([x, -x, torch.tensor([0.0, 1e30, math.inf, -math.inf, -1e30])])
    tangent_of_half_(y := 2 * x, torch.empty_like(x))
    expected = x.double().tanh()
    unit = 2.0 ** (expected.abs().clamp(min=2.0**-126).log2().floor() - 23)
    assert ((y.double() - expected).abs() / unit).max() <= 3
    tangent_of_half_(nothing := torch.full((1,), math.nan), torch.empty(1))
    assert math.isnan(nothing)
