"""Tensors that share memory are stepped by the rule itself, whatever code the others take."""

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule, list_rules
from learned_opt.backends.registry import FUSED_STEPS

NAMES = [name for name in list_rules() if type(create_rule(name)) in FUSED_STEPS]


def two_views(memory):
    """Parameters that overlap in half of their elements, and one that does not."""
    gradients = torch.arange(1.0, 13.0).split(4)
    return [(memory[:4], gradients[0]), (memory[2:6], gradients[1]), (memory[6:10], gradients[2])]


def the_same(memory):
    gradients = torch.arange(1.0, 9.0).split(4)
    return [(memory[:4], gradients[0]), (memory[:4], gradients[1])]


def gradient_of_another_offset(memory):
    return [(memory[:4], memory[1:5]), (memory[6:8], torch.ones(2))]


def gradient_of_another_parameter(memory):
    return [(memory[:4], torch.ones(4)), (memory[4:8], memory[:4])]


def base_and_transposed(memory):
    matrix = memory[:9].view(3, 3)
    return [(matrix, torch.ones(3, 3)), (matrix.T, torch.arange(9.0).view(3, 3))]


LAYOUTS = [
    two_views,
    the_same,
    gradient_of_another_offset,
    gradient_of_another_parameter,
    base_and_transposed,
]


def run(name, layout, fused, steps=3):
    """The memory of all tensors after some steps."""
    torch.manual_seed(0)
    rule = create_rule(name)
    planned = 50 if "total_steps" in rule.required_context() else None
    memory = torch.linspace(-1, 1, 12)
    parameters = []
    for value, gradient in layout(memory):
        parameters.append(nn.Parameter(value))
        assert parameters[-1].data_ptr() == value.data_ptr()
        parameters[-1].grad = gradient
    optimizer = LearnedOptimizer(parameters, lr=0.1, rule=rule, fused=fused, total_steps=planned)
    for _ in range(steps):
        optimizer.step(lambda: torch.tensor(1.5))
    return memory


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_shared_memory_is_stepped_by_the_rule(name, layout):
    own, chosen = run(name, layout, False), run(name, layout, None)
    torch.testing.assert_close(chosen, own, rtol=1e-5, atol=1e-6)
    assert not torch.equal(own, torch.linspace(-1, 1, 12))


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (two_views, "0.0: it or its gradient shares memory with 0.1"),
        (gradient_of_another_offset, "0.0: it shares memory with its gradient"),
        (gradient_of_another_parameter, "0.0: it or its gradient shares memory with 0.1"),
    ],
    ids=["two views", "own gradient", "gradient of another"],
)
def test_the_reason_names_the_tensors(layout, reason):
    with pytest.raises(RuntimeError) as raised:
        run("orthogonal-momentum", layout, True)
    assert str(raised.value) == f"fused=True does not fit {reason}"


@pytest.mark.parametrize(
    "strides", [(2, 1), (1, 1), (0, 1), (1, 2)], ids=lambda strides: f"{strides}"
)
@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_may_overlap_itself(name, strides):
    """It is only read: the same numbers as from a copy."""
    ends = []
    for copied in (False, True):
        torch.manual_seed(0)
        rule = create_rule(name)
        planned = 50 if "total_steps" in rule.required_context() else None
        parameters = [nn.Parameter(torch.eye(4)), nn.Parameter(torch.ones(3))]
        optimizer = LearnedOptimizer(parameters, rule=rule, total_steps=planned)
        for step in range(3):
            gradient = (torch.arange(10.0) + step).as_strided((4, 4), strides)
            parameters[0].grad = gradient.contiguous() if copied else gradient
            parameters[1].grad = torch.ones(3)
            optimizer.step(lambda: torch.tensor(1.5))
        ends.append(parameters[0].detach().clone())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)
    assert not torch.equal(ends[0], torch.eye(4))


def test_gradients_may_share_memory():
    gradient, ends = torch.ones(4), []
    for fused in (True, False):
        parameters = [nn.Parameter(torch.full((4,), 2.0)), nn.Parameter(torch.full((3,), 3.0))]
        parameters[0].grad, parameters[1].grad = gradient, gradient[1:]
        rule = create_rule("orthogonal-momentum")
        LearnedOptimizer(parameters, lr=0.1, rule=rule, fused=fused).step()
        ends.append(torch.cat([parameter.detach() for parameter in parameters]))
    torch.testing.assert_close(*ends)


def test_memory_that_comes_to_be_shared_is_noticed():
    """The tensors fit in the first step; then one is pointed to the other's memory."""
    ends = []
    for fused in (None, False):
        parameters = [nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))]
        optimizer = LearnedOptimizer(parameters, 0.1, rule=create_rule("adam"), fused=fused)
        for step in range(3):
            parameters[0].grad, parameters[1].grad = torch.ones(4), torch.arange(4.0)
            if step == 1:
                parameters[1].data = parameters[0].data
            optimizer.step()
        ends.append(parameters[0].detach().clone())
    torch.testing.assert_close(*ends)
