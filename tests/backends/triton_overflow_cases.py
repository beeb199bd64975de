"""Steps in Triton on numbers that overflow, vanish, or are not finite; see `triton_cases.py`."""

import math
import warnings

import pytest
import torch
from triton_pair import *  # noqa: F403
from triton_pair import DEVICE, Pair, everything, gradients


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_leaves_its_tensor(name, bad):
    pair = Pair(name, [(300, 7), (70,), (5,)])
    pair.run(1)
    grads = gradients(pair.shapes, 7)
    grads[0][299, 6] = bad
    old = everything(pair, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        pair.step(grads)
    new = everything(pair, 0)
    assert all(torch.equal(a, b) for a, b in zip(old[0], new[0], strict=True))
    assert not torch.equal(old[1][0], new[1][0])
    assert [optimizer.skipped_updates for optimizer in pair.optimizers] == [1, 1]
    pair.run(1)
    pair.check()


def test_skipped_tensors_are_named():
    optimizer = Pair("step-size-lstm", [(4, 3), (5,)]).optimizers[0]
    tensors = optimizer.param_groups[0]["params"]
    tensors[0].grad, tensors[1].grad = torch.ones_like(tensors[0]), torch.ones_like(tensors[1])
    tensors[1].grad[2] = math.nan
    with pytest.warns(RuntimeWarning, match="parameter 1 of group 0"):
        for _ in range(3):  # on a GPU, the count is read some steps later
            optimizer.step(lambda: torch.tensor(1.0, device=DEVICE))
            torch.cuda.synchronize() if DEVICE == "cuda" else None


@pytest.mark.parametrize("huge, skips", [(1e18, 0), (1e21, 1), (3e38, 1)])
def test_a_huge_gradient_leaves_its_tensor(name, huge, skips):
    """Its square leaves the range of float32: from there on, nothing is written."""
    pair = Pair(name, [(6, 5), (4,)])
    pair.run(1)
    grads = gradients(pair.shapes, 7)
    grads[1][3] = huge
    old = everything(pair, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        pair.step(grads)
    assert pair.optimizers[0].skipped_updates == skips
    new = everything(pair, 0)
    assert torch.equal(old[1][0], new[1][0]) == bool(skips)
    if skips:
        assert all(torch.equal(a, b) for a, b in zip(old[1], new[1], strict=True))
    assert all(bool(value.isfinite().all()) for value in new[1])


def test_a_matrix_of_huge_gradients_is_orthogonalised_as_any():
    pair = Pair("orthogonal-momentum", [(6, 5)])
    for scale in (1e-30, 1.0, 1e30):
        pair.run(1, scale)
    pair.check()
    assert pair.optimizers[0].skipped_updates == 0


def test_a_parameter_that_would_overflow_is_skipped(name):
    pair = Pair(name, [(6, 5)], lr=3e38, weight_decay=100.0)
    pair.optimizers[0].init_state()
    old = everything(pair, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        pair.run(1)
    assert all(torch.equal(a, b) for a, b in zip(old[0], everything(pair, 0)[0], strict=True))
    assert [optimizer.skipped_updates for optimizer in pair.optimizers] == [1, 1]


def test_an_infinite_parameter_stays(name):
    pair = Pair(name, [(20, 30), (7,)])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for parameters in pair.parameters:
            parameters[0][3, 4] = -math.inf
        pair.run(2)
    one, two = pair.optimizers
    assert pair.parameters[0][0][3, 4] == -math.inf
    assert one.skipped_updates == two.skipped_updates
    pair.check()


def test_nothing_is_written_where_the_loss_is_not_a_number():
    pair = Pair("step-size-lstm", [(4, 3), (5,)])
    pair.run(1)
    old = everything(pair, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        pair.step(gradients(pair.shapes, 3), math.nan)
    for before, after in zip(old, everything(pair, 0), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert [optimizer.skipped_updates for optimizer in pair.optimizers] == [2, 2]


def test_coordinates_that_never_had_a_gradient_stand_still(name):
    pair = Pair(name, [(6, 5), (4,), (3, 3)])
    old = everything(pair, 0) if pair.optimizers[0].state else pair.copies(0)
    for step in range(2):
        grads = gradients(pair.shapes, step)
        grads[0][2] = 0.0
        grads[2].zero_()
        pair.step(grads)
    for parameters, optimizer in zip(pair.parameters, pair.optimizers, strict=True):
        first = optimizer.state[parameters[0]]
        assert torch.equal(parameters[0][2].detach(), old[0][2])
        assert torch.equal(parameters[2].detach(), old[2])
        if name == "adam-lstm":
            assert first["h"][2].abs().max() == 0
            assert first["h"][1].abs().min() > 0
    pair.check()


@pytest.mark.parametrize("name", ["adam-lstm", "orthogonal-momentum"])
def test_updates_fade_alike_where_gradients_stop(name):
    pair = Pair(name, [(3, 2), (2,)])
    pair.run(1)
    for _ in range(30):
        pair.step([torch.zeros(shape) for shape in pair.shapes])
    pair.check()
