"""The exponential, sigmoid, tangent and logarithm of faster code, against float64."""

import math

import pytest
import torch

from learned_opt.backends.blocks.lstm_cell import tangent_of_half_
from learned_opt.c_library import call_c, load_library
from learned_opt.rules.parts.lstm_cell_in_c import LSTMCellInC

compiled = pytest.mark.skipif(load_library() is None, reason="the C library was not compiled")


def of_every_exponent(lowest, highest, count=200):
    """Floats with random digits, `count` for each power of two."""
    digits = 1 + torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    powers = 2.0 ** torch.arange(lowest, highest, dtype=torch.float64)
    return (digits * powers.unsqueeze(-1)).reshape(-1).float()


def units_off(found, expected):
    """Errors in units in the last place of normal numbers."""
    unit = 2.0 ** (expected.abs().clamp(min=2.0**-126).log2().floor() - 23)
    return (found.double() - expected).abs() / unit


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
    assert units_off(y, expected).max() <= 3
    ends = torch.tensor([math.nan, 1e30, -1e30])
    call_c("elementary", which, 3, ends.numpy(), (at := torch.empty(3)).numpy())
    assert which == 3 or math.isnan(at[0])
    assert which == 3 or at[1:].isfinite().all()


@compiled
@pytest.mark.parametrize("gate", ["i", "f", "o", "z", "c"])
@pytest.mark.parametrize("units", [1, 2, 5])
def test_each_gate_of_a_cell_is_as_exact_as_its_logit(gate, units):
    """All logits but one are such that the gate, or the tangent of c, is what comes out.

    A logit is rounded once: a sigmoid may be off by as many more units as the logit is large.
    """
    values = of_every_exponent(-126, 6)
    x = torch.cat([values, -values, torch.zeros(1)])
    x = x[x.abs() <= 86]
    logits = torch.zeros(len(x), 4)
    logits[:, "ifoz".index("f" if gate == "c" else gate)] = 0.0 if gate == "c" else x
    c = {"f": 1.0, "o": 50.0, "c": x.unsqueeze(-1)}.get(gate, 0.0) * torch.ones(len(x), units)
    for other in {"i": "z", "o": "f", "z": "i", "c": "fo", "f": ""}[gate]:
        logits[:, "ifoz".index(other)] = 100.0
    weight = torch.zeros(4 + units, 4 * units)
    for k in range(4):
        weight[k, k * units : (k + 1) * units] = 1
    args = [logits.t(), torch.zeros(units, len(x)), c.t()]
    new_h, new_c = LSTMCellInC.apply(*args, weight, torch.zeros(4 * units), None)
    is_tangent = gate in "zc"
    exact = x.double().tanh() if is_tangent else x.double().sigmoid()
    allowed = torch.full_like(x, 4) if is_tangent else 3 + x.abs()
    for found in new_h if gate in "oc" else new_c:
        assert (units_off(found, exact) <= allowed).all()


@compiled
def test_logits_beyond_all_bounds_open_and_close_gates_and_nan_stays():
    """Also where the product of two denominators is more than a float."""
    logits = torch.tensor([1e30, 100.0, 0.5, -100.0, -1e30])
    grid = torch.cartesian_prod(logits, logits, logits, logits)
    before = torch.zeros(1, len(grid)), torch.full((1, len(grid)), 0.5)
    weight, bias = torch.eye(5, 4), torch.zeros(4)
    h, c = LSTMCellInC.apply(grid.t(), *before, weight, bias, None)
    i, f, o = grid[:, :3].double().sigmoid().t()
    exact = f * 0.5 + i * grid[:, 3].double().tanh()
    torch.testing.assert_close(c[0].double(), exact, rtol=1e-6, atol=1e-36)
    torch.testing.assert_close(h[0].double(), o * exact.tanh(), rtol=1e-6, atol=1e-36)
    h, c = LSTMCellInC.apply(math.nan * grid.t(), *before, weight, bias, None)
    assert h.isnan().all()
    assert c.isnan().all()


@torch.inference_mode()
def test_the_tangent_in_blocks_is_within_three_units_in_the_last_place():
    x = of_every_exponent(-126, 6)
    x = torch.cat([x, -x, torch.tensor([0.0, 1e30, math.inf, -math.inf, -1e30])])
    tangent_of_half_(y := 2 * x, torch.empty_like(x))
    expected = x.double().tanh()
    assert units_off(y, expected).max() <= 3
    tangent_of_half_(nothing := torch.full((1,), math.nan), torch.empty(1))
    assert math.isnan(nothing)
