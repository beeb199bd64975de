"""Memory that steps in Triton find, follow or refuse; see `triton_cases.py`."""

import copy

import pytest
import torch
from torch import nn
from triton_pair import *  # noqa: F403
from triton_pair import DEVICE, Pair, gradients, random_rule

from learned_opt import LearnedOptimizer, create_rule


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_views_at_any_address_agree(name, offset):
    """Vector loads need multiples of 16 bytes: an offset of one float32 has none."""
    size = 2500 if name == "step-size-lstm" else 520
    rule, results = random_rule(name), []
    for fused in (True, False):
        torch.manual_seed(1)
        flat = torch.randn(size + offset).to(DEVICE)
        gradient = torch.randn(size + offset).to(DEVICE)
        before = flat[:offset].clone()
        parameter = nn.Parameter(flat[offset:])
        optimizer = LearnedOptimizer([parameter], rule=rule, fused=fused, total_steps=9)
        parameter.grad = gradient[offset:]
        optimizer.step(lambda: torch.tensor(1.0, device=DEVICE))
        results.append(parameter.detach())
        assert torch.equal(flat[:offset], before)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unit_major", [False, True])
def test_state_may_lie_unit_by_unit(unit_major):
    pair = Pair("adam-lstm", [(41, 26), (3,), ()])
    for optimizer in pair.optimizers:
        optimizer.init_state()
        for state in optimizer.state.values():
            for key in ("h", "c", "m"):
                value = state[key]
                state[key] = torch.zeros(value.shape)
                if unit_major:
                    state[key] = torch.zeros(value.movedim(-1, 0).shape).movedim(0, -1)
    pair.run()
    pair.check()
    strides = {state["h"].stride(-1) for state in pair.optimizers[0].state.values()}
    assert strides == ({41 * 26, 3, 1} if unit_major else {1})


def test_a_resumed_run_is_the_unbroken_one(name):
    runs = []
    for broken in (False, True):
        pair = Pair(name, [(30, 7), (5,)])
        pair.run(2)
        parameters, optimizer = pair.parameters[0], pair.optimizers[0]
        if broken:
            saved = copy.deepcopy(optimizer.state_dict())
            parameters = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
            plan = {"total_steps": 50} if optimizer.param_groups[0]["total_steps"] else {}
            optimizer = LearnedOptimizer(parameters, rule=pair.rule, fused=True, **plan)
            optimizer.load_state_dict(saved)
        for parameter, gradient in zip(parameters, gradients(pair.shapes, 9), strict=True):
            parameter.grad = gradient.to(DEVICE)
        optimizer.step(lambda: torch.tensor(1.0, device=DEVICE))
        runs.append(parameters)
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


def test_gradients_that_move_in_memory_are_found(name):
    """The table of addresses is kept between steps; each step has new gradient tensors."""
    pair = Pair(name, [(5, 3), (4,)])
    kept = []
    for step in range(3):
        pair.step(gradients(pair.shapes, step))
        kept += [parameter.grad for parameter in pair.parameters[0]]
    assert len({gradient.data_ptr() for gradient in kept}) == 6
    pair.check()


def test_parameters_come_and_go(name):
    pair = Pair(name, [(5, 3), (4,), (2, 2)])
    for missing in (None, 1, 0, None):
        for parameters, optimizer in zip(pair.parameters, pair.optimizers, strict=True):
            for k, gradient in enumerate(gradients(pair.shapes, 3)):
                parameters[k].grad = None if k == missing else gradient.to(DEVICE)
            optimizer.step(lambda: torch.tensor(1.0, device=DEVICE))
    pair.check()
    assert float(pair.optimizers[0].state[pair.parameters[0][1]]["step"]) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_dtypes_are_refused(name, dtype):
    said = f"it is {str(dtype)[6:]}, not float32 or bfloat16"
    with pytest.raises(ValueError, match=said):
        Pair(name, [(3, 2)], dtype=dtype)


def test_what_does_not_fit_is_refused_before_anything_moves(name):
    pair = Pair(name, [(3, 2), (4,)])
    pair.run(1)
    before = pair.copies(0)
    optimizer, (matrix, vector) = pair.optimizers[0], pair.parameters[0]
    matrix.grad = torch.ones(2, 3, device=DEVICE).T
    vector.grad = torch.ones(4, device=DEVICE)
    with pytest.raises(RuntimeError, match="0.0: its gradient is not contiguous"):
        optimizer.step(lambda: torch.tensor(1.0, device=DEVICE))
    matrix.grad = torch.ones(3, 2, device=DEVICE)
    key = {"step-size-lstm": "m99", "adam-lstm": "fast", "orthogonal-momentum": "m"}[name]
    optimizer.state[matrix][key] = optimizer.state[matrix][key].double()
    with pytest.raises(RuntimeError, match=f"0.0: its state '{key}' is float64, not float32"):
        optimizer.step(lambda: torch.tensor(1.0, device=DEVICE))
    assert all(torch.equal(a, b) for a, b in zip(before, pair.copies(0), strict=True))


def test_a_large_lstm_is_refused():
    rule = create_rule("adam-lstm", hidden_size=65)
    with pytest.raises(ValueError, match="its LSTM has 65 units, more than 64"):
        LearnedOptimizer([nn.Parameter(torch.ones(2, device=DEVICE))], rule=rule, fused=True)


def test_default_dtype_and_device_change_nothing(name):
    pair = Pair(name, [(5, 3), (4,)], lr=0.01, weight_decay=0.1)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        for step in range(2):
            grads = [gradient.float() for gradient in gradients(pair.shapes, step)]
            loss = torch.tensor(1.5, device=DEVICE, dtype=torch.float32)
            for parameters, optimizer in zip(pair.parameters, pair.optimizers, strict=True):
                for parameter, gradient in zip(parameters, grads, strict=True):
                    parameter.grad = gradient.to(DEVICE)
                with torch.device("meta"):
                    optimizer.step(lambda value=loss: value)
    finally:
        torch.set_default_dtype(before)
    pair.check()
    for optimizer in pair.optimizers:
        states = optimizer.state.values()
        assert {value.dtype for state in states for value in state.values()} == {torch.float32}
