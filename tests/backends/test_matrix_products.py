"""Products of matrices in C are those of float64, for all shapes, strides and threads."""

import pytest
import torch

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.backends.c_steps.matrix_products import ProductsInC
from learned_opt.backends.orthogonal_momentum import step
from learned_opt.c_library import load_library
from learned_opt.rules.parts.matrix_products import ProductsInTorch
from learned_opt.rules.parts.orthogonalize import orthogonalize_unit

pytestmark = pytest.mark.skipif(load_library() is None, reason="the C library was not compiled")

SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 5, 7),
    (1, 14, 32, 32),
    (3, 15, 33, 31),
    (1, 200, 321, 65),
    (2, 30, 641, 520),
    (1, 170, 1, 1030),
]
"""Batch, rows, depth and columns: at, below and beyond the sizes of tiles and blocks."""


def filled(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(shape)


def assert_near(found, left, right, extra=0.0):
    """Within rounding of the sums of products."""
    exact = left.double() @ right.double() + extra
    size = left.double().abs() @ right.double().abs() + abs(extra)
    assert ((found - exact).abs() <= 3e-6 * size).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("turned", ["neither", "left", "right"])
def test_a_product_is_that_of_float64(shape, turned):
    batch, rows, depth, columns = shape
    left, right = filled(batch, rows, depth), filled(batch, depth, columns)
    if turned == "left":
        left = left.mT.contiguous().mT
    if turned == "right":
        right = right.mT.contiguous().mT
    found = ProductsInC(least_side=0).general(left, right)
    assert found.is_contiguous()
    assert_near(found, left, right)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_base_is_added(shape):
    batch, rows, depth, columns = shape
    left, right = filled(batch, rows, depth), filled(batch, depth, columns)
    for base in (filled(batch, rows, columns), filled(batch, columns, rows).mT):
        kept = base.clone()
        found = ProductsInC(least_side=0).general(left, right, base, -1.5, 0.5)
        assert_near(found, 0.5 * left, right, -1.5 * base.double())
        assert torch.equal(base, kept)


@pytest.mark.parametrize("size", [1, 13, 14, 33, 100, 323, 530])
def test_half_of_a_symmetric_product_is_mirrored(size):
    x, base = filled(2, size, size + 7), filled(2, size, size)
    base = base + base.mT
    found = ProductsInC(least_side=0).symmetric(x, x.mT, base, 2.0, 0.25)
    assert torch.equal(found, found.mT)
    assert_near(found, 0.25 * x, x.mT, 2 * base.double())


def test_torch_computes_the_same():
    left, base = filled(2, 9, 9), filled(2, 9, 9)
    left, base = left + left.mT, base + base.mT
    here, torchs = ProductsInC(least_side=0), ProductsInTorch()
    for arguments in ((left, left), (left, left, base, 0.3, 0.7)):
        torch.testing.assert_close(here.general(*arguments), torchs.general(*arguments))
        torch.testing.assert_close(here.symmetric(*arguments), torchs.symmetric(*arguments))


@pytest.mark.parametrize(("batch", "size"), [(1, 300), (5, 150)])
def test_threads_change_no_bit(batch, size):
    x, found, threads = filled(batch, size, 400), [], torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            products = ProductsInC(least_side=0)
            found.append((products.symmetric(x, x.mT), products.general(x.mT, x)))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


def test_small_products_are_those_of_torch():
    left, right, base = filled(2, 95, 7), filled(2, 7, 200), filled(2, 95, 200)
    assert torch.equal(ProductsInC().general(left, right), left @ right)
    found = ProductsInC().general(left, right, base, 2.0, 3.0)
    assert torch.equal(found, 2.0 * base + 3.0 * (left @ right))


def test_infinities_and_nan_are_passed_on():
    left, right = filled(1, 3, 3), filled(1, 3, 3)
    left[0, 1, 1] = torch.inf
    right[0, 2, 2] = torch.nan
    found = ProductsInC(least_side=0).general(left, right)
    assert torch.equal(found.isfinite(), (left @ right).isfinite())


def test_nothing_is_multiplied_out_of_bounds():
    for left, right in ((filled(1, 2, 3), filled(1, 2, 3)), (filled(2, 3, 3), filled(1, 3, 3))):
        with pytest.raises(ValueError, match="no product of"):
            ProductsInC(least_side=0).general(left, right)
    with pytest.raises(ValueError, match="no product of"):
        ProductsInC(least_side=0).symmetric(filled(1, 2, 3), filled(1, 3, 4))
    with pytest.raises(ValueError, match="no sum of"):
        ProductsInC(least_side=0).general(filled(1, 2, 3), filled(1, 3, 4), filled(1, 2, 3))


def test_other_numbers_than_float32_are_refused_rather_than_misread():
    ones = torch.ones(1, 3, 3)
    for given in ((ones.double(), ones), (ones, ones.half()), (ones, ones, ones.double(), 1.0)):
        with pytest.raises(ValueError, match="C multiplies float32 on the CPU, got torch"):
            ProductsInC(least_side=0).general(*given)


@pytest.mark.parametrize("decay", [0.02, 0.1])
def test_small_singular_values_are_orthogonalised_as_well_as_by_torch(decay):
    """Of a long matrix, whose factors are multiplied before it is; mirrored, they lost 1%."""
    torch.manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(97, 97, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(220, 97, dtype=torch.float64))
    x = (left * torch.exp(-decay * torch.arange(97.0, dtype=torch.float64))) @ right.mT
    x = (x / x.norm()).float().unsqueeze(0)
    exact = orthogonalize_unit(x.double(), 4)
    for products in (ProductsInC(), ProductsInTorch()):
        found = orthogonalize_unit(x, 4, products)
        assert (found - exact).norm() < 1e-3 * exact.norm()


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 4, 0)])
def test_an_empty_product_is_empty(shape):
    batch, rows, depth, columns = shape
    found = ProductsInC(least_side=0).general(
        torch.ones(batch, rows, depth), torch.ones(batch, depth, columns)
    )
    assert found.shape == (batch, rows, columns)


def test_a_product_without_depth_is_the_base():
    base = filled(2, 3, 4)
    found = ProductsInC(least_side=0).general(torch.ones(2, 3, 0), torch.ones(2, 0, 4), base, 2.0)
    assert torch.equal(found, 2 * base)


def test_torch_multiplies_where_vectors_are_short(monkeypatch):
    monkeypatch.setattr(step, "is_generic", lambda: True)
    rule = create_rule("orthogonal-momentum")
    assert "torch multiplies faster" in str(step.OrthogonalMomentumInC().refuses_rule(rule))
    optimizer = LearnedOptimizer([torch.nn.Parameter(torch.ones(3, 4))], rule=rule, fused=True)
    parameter = optimizer.param_groups[0]["params"][0]
    parameter.grad = torch.ones(3, 4)
    optimizer.step()
    assert float(parameter.detach().max()) < 1
