"""`fused=True` gives the reason of the code that is made for the tensors' device."""

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.backends.triton import step_in_triton
from learned_opt.c_library import load_library


@pytest.fixture
def accelerator(monkeypatch):
    """The meta device stands for a GPU that Triton's code is made for."""
    monkeypatch.setattr(step_in_triton, "device_type", lambda: "meta")
    monkeypatch.setattr(step_in_triton, "missing_triton", lambda: None)
    return "meta"


def parameter(*shape, device="cpu", dtype=torch.float32):
    tensor = nn.Parameter(torch.ones(shape, device=device, dtype=dtype))
    tensor.grad = torch.ones_like(tensor)
    return tensor


def optimizer_of(*tensors, rule="step-size-lstm", fused=True):
    plan = {"total_steps": 10} if rule == "step-size-lstm" else {}
    return LearnedOptimizer(list(tensors), rule=create_rule(rule), fused=fused, **plan)


def refusal(error, function):
    with pytest.raises(error) as raised:
        function()
    return str(raised.value).removeprefix("fused=True does not fit ")


@pytest.mark.parametrize("rule", ["step-size-lstm", "adam-lstm", "orthogonal-momentum"])
def test_half_precision_on_a_gpu_is_refused_for_its_dtype(accelerator, rule):
    half = parameter(2, device=accelerator, dtype=torch.float16)
    said = refusal(ValueError, lambda: optimizer_of(half, rule=rule))
    assert said == "a parameter of shape [2]: it is float16, not float32 or bfloat16"


@pytest.mark.parametrize("rule", ["step-size-lstm", "adam-lstm", "orthogonal-momentum"])
def test_a_gpu_without_triton_is_refused_for_that(accelerator, monkeypatch, rule):
    monkeypatch.setattr(step_in_triton, "missing_triton", lambda: "Triton is not installed")
    tensor = parameter(2, device=accelerator)
    said = refusal(ValueError, lambda: optimizer_of(tensor, rule=rule))
    assert said == "a parameter of shape [2]: Triton is not installed"


def test_triton_that_is_gone_is_the_reason_in_a_step(accelerator, monkeypatch):
    optimizer = optimizer_of(parameter(2, device=accelerator))
    monkeypatch.setattr(step_in_triton, "missing_triton", lambda: "Triton is not installed")
    assert refusal(RuntimeError, lambda: optimizer.step(lambda: 1.0)) == (
        "0.0: Triton is not installed"
    )


def test_a_gradient_on_a_gpu_is_refused_for_its_strides(accelerator):
    tensor = parameter(2, 3, device=accelerator)
    tensor.grad = torch.ones(3, 2, device=accelerator).T
    optimizer = optimizer_of(parameter(2, device=accelerator), tensor)
    assert refusal(RuntimeError, lambda: optimizer.step(lambda: 1.0)) == (
        "0.1: its gradient is not contiguous"
    )


def test_the_code_is_asked_about_the_copy_that_it_will_step(accelerator, monkeypatch):
    """A rule on another device than a parameter is copied there: its own weights do not count."""
    asked = []

    def refuses_rule(self, rule):
        asked.append(rule.device.type)
        return None

    monkeypatch.setattr(step_in_triton.StepInTriton, "refuses_rule", refuses_rule)
    optimizer_of(parameter(2, device=accelerator))
    assert asked[-1] == accelerator


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_device_without_faster_code_is_named_beside_those_with_it(dtype):
    tensor = parameter(2, device="meta", dtype=dtype)
    for rule, devices in {"sgd": "the CPU", "step-size-lstm": "the CPU or a GPU"}.items():
        if rule == "sgd" and load_library() is None:
            continue
        said = refusal(ValueError, lambda r=rule: optimizer_of(tensor, rule=r))
        assert said == f"a parameter of shape [2]: it is on meta, not on {devices}"


def test_a_tensor_that_moved_to_such_a_device_is_refused_in_a_step():
    tensor = parameter(2)
    optimizer = optimizer_of(tensor)
    optimizer.param_groups[0]["params"][0] = parameter(2, device="meta")
    assert refusal(RuntimeError, lambda: optimizer.step(lambda: 1.0)) == (
        "0.0: it is on meta, not on the CPU or a GPU"
    )


def test_the_tensor_that_no_code_takes_is_named(monkeypatch):
    """The first choice refuses two tensors, the second one takes the first of them."""
    optimizer = optimizer_of(parameter(2), parameter(2, 2), parameter(3), rule="adam-lstm")
    fast, slow = optimizer._fused._steps[:2]
    monkeypatch.setattr(fast, "refuses_rule", lambda rule: None)
    monkeypatch.setattr(
        fast, "refuses", lambda rule, u: None if u.parameter.numel() == 4 else "fast says no"
    )
    monkeypatch.setattr(
        slow, "refuses", lambda rule, u: None if u.parameter.numel() == 2 else "slow says no"
    )
    assert refusal(RuntimeError, lambda: optimizer.step(lambda: 1.0)) == "0.2: fast says no"
