"""A step keeps its plan from the last one only where nothing but numbers and addresses changed."""

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule, list_rules
from learned_opt.backends.registry import FUSED_STEPS

NAMES = [name for name in list_rules() if type(create_rule(name)) in FUSED_STEPS]


def turned_parameter(optimizer, first, second):
    """The same memory and shape, by columns."""
    first.data = first.data.t()


def turned_gradient(optimizer, first, second):
    first.grad = first.grad.t()


def negated_gradient(optimizer, first, second):
    """A view of the same memory that stands for its negative."""
    first.grad = torch._neg_view(first.grad)


def other_gradients(optimizer, first, second):
    first.grad, second.grad = first.grad.clone() + 1, second.grad.clone() - 1


def swapped_gradients(optimizer, first, second):
    first.grad, second.grad = second.grad, first.grad


def gradient_in_the_parameter(optimizer, first, second):
    first.grad = first.data


def parameter_in_the_other(optimizer, first, second):
    second.data = first.data


def turned_state(optimizer, first, second):
    for value in optimizer.state[first].values():
        if value.dim() == 2:
            value.t_()


def other_state(optimizer, first, second):
    for key, value in optimizer.state[first].items():
        optimizer.state[first][key] = value.clone()


def exchanged_state(optimizer, first, second):
    """The tensors that lie in the same places have each other's names."""
    state = optimizer.state[first]
    alike = [key for key, value in state.items() if value.shape == first.shape]
    old = {key: state.pop(key) for key in list(state)}
    turned = {key: old[other] for key, other in zip(alike, reversed(alike), strict=True)}
    # Averages of squares may become negative.
    for value in turned.values():
        value.abs_()
    state.update({key: turned.get(key, value) for key, value in old.items()})


def renamed_order(optimizer, first, second):
    state = optimizer.state[first]
    for key in reversed(list(state)):
        state[key] = state.pop(key)


def another_entry(optimizer, first, second):
    optimizer.state[second]["mine"] = torch.eye(2)


def another_rule(optimizer, first, second):
    with torch.no_grad():
        for weight in optimizer.rule.parameters():
            weight.mul_(1.1)


CHANGES = [
    turned_parameter,
    turned_gradient,
    negated_gradient,
    other_gradients,
    swapped_gradients,
    gradient_in_the_parameter,
    parameter_in_the_other,
    turned_state,
    other_state,
    exchanged_state,
    renamed_order,
    another_entry,
    another_rule,
]


def run(name, change, fused):
    """The parameters after two steps, the change, and two more steps."""
    torch.manual_seed(0)
    rule = create_rule(name)
    planned = 50 if "total_steps" in rule.required_context() else None
    first, second = (nn.Parameter(torch.randn(6, 6)) for _ in range(2))
    optimizer = LearnedOptimizer([first, second], 0.1, rule=rule, fused=fused, total_steps=planned)
    first.grad, second.grad = torch.randn(6, 6), torch.randn(6, 6)
    for turn in range(4):
        if turn == 2:
            change(optimizer, first, second)
        optimizer.step(lambda: torch.tensor(1.5))
    return [first.detach().clone(), second.detach().clone()]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_a_change_between_steps_is_seen(name, change):
    chosen, own = run(name, change, None), run(name, change, False)
    torch.testing.assert_close(chosen, own, rtol=1e-3, atol=1e-4)


def test_a_rule_in_another_place_is_asked_again():
    """The state does not fit it: an error says so, and nothing is written."""
    parameter = nn.Parameter(torch.ones(4))
    parameter.grad = torch.ones(4)
    optimizer = LearnedOptimizer([parameter], rule=create_rule("adam-lstm", hidden_size=3))
    optimizer.step()
    before = parameter.detach().clone()
    optimizer.rule = create_rule("adam-lstm", hidden_size=5)
    with pytest.raises(ValueError, match=r"its state 'h' has shape \[4, 3\], not \[4, 5\]$"):
        optimizer.step()
    assert torch.equal(parameter.detach(), before)
