"""`fused=True` says in one line why it does not fit; None and False step in any case."""

import copy
import pickle

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.c_library import load_library
from learned_opt.rules.sgd import SGD

compiled = pytest.mark.skipif(load_library() is None, reason="the C library was not compiled")


def parameter(*shape, dtype=torch.float32):
    tensor = nn.Parameter(torch.ones(shape, dtype=dtype))
    tensor.grad = torch.ones_like(tensor)
    return tensor


def refusal(error, function):
    with pytest.raises(error) as raised:
        function()
    return str(raised.value)


class Doubled(SGD):
    """Another rule than its base class."""

    def update_coordinates(self, gradient, parameter, state, context, gates=None):
        return -2 * gradient, {}


def test_a_rule_without_faster_code_is_refused():
    for rule in (create_rule("general"), Doubled()):
        said = refusal(
            ValueError, lambda r=rule: LearnedOptimizer([parameter(2)], rule=r, fused=True)
        )
        name = type(rule).__name__
        assert said == f"fused=True does not fit rule {name}: it has one implementation"


def test_a_subclass_is_stepped_by_its_own_equations():
    tensor = parameter(3)
    LearnedOptimizer([tensor], lr=0.25, rule=Doubled()).step()
    assert tensor.tolist() == [0.5, 0.5, 0.5]


@compiled
def test_a_parameter_that_does_not_fit_is_refused_when_it_is_given():
    rule = create_rule("sgd")
    double = [parameter(2, dtype=torch.float64)]
    said = refusal(ValueError, lambda: LearnedOptimizer(double, rule=rule, fused=True))
    assert said == ("fused=True does not fit a parameter of shape [2]: it is float64, not float32")
    optimizer = LearnedOptimizer([parameter(2)], rule=rule, fused=True)
    refusal(ValueError, lambda: optimizer.add_param_group({"params": double}))


@compiled
def test_a_gradient_that_does_not_fit_is_refused_before_anything_moves():
    named = [("a", parameter(2)), ("b", parameter(2, 3))]
    optimizer = LearnedOptimizer(named, lr=1.0, rule=create_rule("sgd"), fused=True)
    named[1][1].grad = torch.ones(3, 2).T
    said = refusal(RuntimeError, optimizer.step)
    assert said == "fused=True does not fit b: its gradient is not contiguous"
    assert named[0][1].tolist() == [1, 1]


@compiled
def test_a_rule_that_is_cast_is_refused_when_it_steps():
    rule = create_rule("sgd")
    optimizer = LearnedOptimizer([parameter(2)], rule=rule, fused=True)
    rule.to(torch.bfloat16)
    said = refusal(RuntimeError, optimizer.step)
    assert said == "fused=True does not fit rule SGD: the rule is in bfloat16, not float32"


@compiled
@pytest.mark.parametrize("fused", [None, False])
def test_what_does_not_fit_is_stepped_by_the_rule(fused):
    strided = nn.Parameter(torch.ones(3, 2).T)
    strided.grad = torch.ones(2, 3)
    tensors = [parameter(2, dtype=torch.float64), parameter(2), strided]
    LearnedOptimizer(tensors, lr=0.25, rule=create_rule("sgd"), fused=fused).step()
    for tensor in tensors:
        assert torch.equal(tensor.detach(), torch.full_like(tensor, 0.75))


def test_the_option_survives_copies():
    for fused in (None, False):
        optimizer = LearnedOptimizer([parameter(2)], rule=create_rule("sgd"), fused=fused)
        for made in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            assert made._fused.option is fused


def test_other_values_are_refused():
    for wrong in ("yes", 2):
        said = refusal(ValueError, lambda w=wrong: LearnedOptimizer([parameter(2)], fused=w))
        assert said == f"fused must be True, False or None, got {wrong!r}"
    group = [{"params": [parameter(2)], "fused": True}]
    said = refusal(ValueError, lambda: LearnedOptimizer(group))
    assert said == "fused=True is not for one parameter group: give it to the optimizer"
