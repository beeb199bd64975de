"""A rule that is cast to bfloat16 or float16 stores its numbers so, and computes in float32."""

import pytest
import torch
from conftest import make_rule
from torch import nn

from learned_opt import LearnedOptimizer
from learned_opt.rules import Context

HALVES = [torch.bfloat16, torch.float16]
PLAN = Context(loss=torch.tensor(0.5), total_steps=torch.tensor(5000.0))
WHOLE_TENSOR = {
    "orthogonal-momentum": {"average", "scalars"},
    "general": {"average", "scalars", "steering"},
    "step-size-lstm": {"h", "c", "scalars"},
}


def draw(seed, *shape, scale=1.0):
    random = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=random)


def started(rule, steps, scale=1.0):
    """An optimizer of one matrix after some steps."""
    parameter = nn.Parameter(draw(0, 2, 3))
    plan = 5000 if "total_steps" in rule.required_context() else None
    optimizer = LearnedOptimizer([parameter], rule=rule, total_steps=plan)
    for step in range(steps):
        parameter.grad = draw(step + 1, 2, 3, scale=scale)
        optimizer.step(lambda: 0.5)
    return optimizer, parameter


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_steps_are_counted_beyond_the_integers_of_half_precision(rule_name, dtype):
    optimizer, parameter = started(make_rule(rule_name, dtype), 1)
    optimizer.state[parameter]["step"].fill_(4096.0)
    optimizer.load_state_dict(optimizer.state_dict())
    for _ in range(3):
        optimizer.step(lambda: 0.5)
    assert optimizer.state[parameter]["step"].item() == 4099.0


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_only_state_per_coordinate_is_in_half_precision(rule_name, dtype):
    optimizer, parameter = started(make_rule(rule_name, dtype), 2)
    wide = {"step"} | WHOLE_TENSOR.get(rule_name, set())
    for _ in range(2):
        for key, value in optimizer.state[parameter].items():
            assert value.dtype == (torch.float32 if key in wide else dtype), key
        optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_step_is_that_of_float32_from_the_stored_numbers(rule_name, dtype):
    half = make_rule(rule_name, dtype)
    exact = make_rule(rule_name, dtype).float()
    optimizer, parameter = started(half, 5)
    state = {key: value.clone() for key, value in optimizer.state[parameter].items()}
    wide = {key: value.float() for key, value in state.items()}
    gradient, value = draw(9, 2, 3), parameter.detach()
    (delta,), (new,) = half([gradient], [value], [state], PLAN)
    (expected,), (expected_new,) = exact([gradient], [value], [wide], PLAN)
    assert torch.equal(delta, expected)
    for key, tensor in expected_new.items():
        assert torch.equal(new[key], tensor.to(state[key].dtype)), key
    gates = half.gates(gradient, value, state, PLAN)
    expected_gates = exact.gates(gradient, value, wide, PLAN)
    assert gates.keys() == expected_gates.keys()
    assert all(torch.equal(gates[key], expected_gates[key]) for key in gates)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 30.0])
def test_gradients_beyond_the_range_of_float16_spoil_nothing(rule_name, scale):
    """Constants such as Adam's eps, 1e-8, are 0 in float16."""
    optimizer, parameter = started(make_rule(rule_name, torch.float16), 3, scale)
    assert optimizer.skipped_updates == 0
    assert (parameter - draw(0, 2, 3)).abs().max() < 30 * max(scale, 0.1)


def test_weights_in_half_precision_get_gradients(rule_name):
    rule = make_rule(rule_name, torch.bfloat16, spread=0.1)
    value = draw(0, 2, 3)
    deltas, _ = rule([draw(1, 2, 3)], [value], [rule.init_state(value)], PLAN)
    if not list(rule.parameters()):
        return
    deltas[0].square().sum().backward()
    assert any(weight.grad.abs().sum() > 0 for weight in rule.parameters())
    assert all(weight.grad.dtype == torch.bfloat16 for weight in rule.parameters())


def test_the_schedule_goes_on_falling_in_bfloat16():
    rule = make_rule("orthogonal-momentum", torch.bfloat16)
    optimizer, parameter = started(rule, 5)
    lengths = []
    for steps in (299.0, 4999.0):
        state = {**optimizer.state[parameter], "step": torch.tensor(steps)}
        (delta,), _ = rule([draw(1, 2, 3)], [draw(0, 2, 3)], [state])
        lengths.append(delta.norm().item())
    # The schedule is 1 / sqrt(1 + t / 50): 1 / sqrt(7) at 300, 1 / sqrt(101) at 5000. The pace adds
    # at most 0.6 / 310 to its logarithm.
    assert lengths[1] / lengths[0] == pytest.approx((7 / 101) ** 0.5, rel=2e-3)
