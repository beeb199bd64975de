"""The option `direction` of a parameter group."""

import copy

import pytest
import torch
from conftest import same
from torch import nn

from learned_opt import LearnedOptimizer, create_rule


def make(direction, seed=0, shape=(4, 3)):
    torch.manual_seed(seed)
    one, two = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(shape))
    groups = [{"params": [one]}, {"params": [two], "direction": direction}]
    return [one, two], LearnedOptimizer(groups, rule=create_rule("orthogonal-momentum"))


def train(parameters, optimizer, steps, first=0):
    for step in range(first, first + steps):
        torch.manual_seed(step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape)
        optimizer.step()


def test_a_matrix_with_adams_direction_is_stepped_as_the_vector_of_its_coordinates():
    parameters, optimizer = make("adam")
    flat = nn.Parameter(parameters[1].detach().clone().reshape(-1))
    alone = LearnedOptimizer([flat], rule=create_rule("orthogonal-momentum"))
    for step in range(5):
        torch.manual_seed(step)
        gradient = torch.randn(4, 3)
        parameters[0].grad, parameters[1].grad = gradient, gradient.clone()
        flat.grad = gradient.reshape(-1).clone()
        optimizer.step()
        alone.step()
    torch.testing.assert_close(parameters[1].reshape(-1), flat)
    assert optimizer.state[parameters[0]]["v"].shape == (0,)
    assert optimizer.state[parameters[1]]["v"].shape == (4, 3)


def test_without_the_option_it_is_a_matrix():
    (one, two), optimizer = make(None)
    with torch.no_grad():
        two.copy_(one)
    for _ in range(3):
        one.grad = two.grad = torch.randn(4, 3)
        optimizer.step()
    torch.testing.assert_close(one, two)


def test_a_resumed_run_keeps_it():
    parameters, optimizer = make("adam")
    train(parameters, optimizer, 3)
    again, resumed = make(None, seed=1)
    with torch.no_grad():
        for one, other in zip(again, parameters, strict=True):
            one.copy_(other)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.param_groups[1]["direction"] == "adam"
    train(parameters, optimizer, 2, first=3)
    train(again, resumed, 2, first=3)
    assert same([p.detach() for p in parameters], [p.detach() for p in again])


def test_state_that_is_made_at_once_follows_it():
    parameters, optimizer = make("adam")
    optimizer.init_state()
    assert [optimizer.state[p]["v"].shape for p in parameters] == [(0,), (4, 3)]


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        (
            "orthogonal-momentum",
            "sgd",
            "direction must be 'adam' or None under rule OrthogonalMomentum, got 'sgd'",
        ),
        ("adam", "adam", "direction must be None under rule Adam, got 'adam'"),
    ],
)
def test_other_values_are_refused_in_one_line(rule, value, message):
    group = {"params": [nn.Parameter(torch.ones(2, 2))], "direction": value}
    with pytest.raises(ValueError) as caught:
        LearnedOptimizer([group], rule=rule)
    assert str(caught.value) == message


@pytest.mark.parametrize(("made", "changed"), [("adam", None), (None, "adam")])
def test_a_change_after_the_first_step_is_refused(made, changed):
    parameters, optimizer = make(made)
    train(parameters, optimizer, 1)
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer.param_groups[1]["direction"] = changed
    with pytest.raises(ValueError) as caught:
        train(parameters, optimizer, 1)
    assert str(caught.value) == (
        f'param_groups[1]["direction"] is {changed!r}, but was another when the state of its '
        "tensors was made: set it before the first step"
    )
    assert same([parameter.detach() for parameter in parameters], before)
    optimizer.param_groups[1]["direction"] = made
    train(parameters, optimizer, 1)


def test_it_can_be_set_until_the_first_step():
    parameters, optimizer = make(None)
    optimizer.param_groups[1]["direction"] = "adam"
    train(parameters, optimizer, 2)
    assert optimizer.state[parameters[1]]["v"].shape == (4, 3)
    optimizer.param_groups[1]["direction"] = "sgd"
    with pytest.raises(ValueError, match="direction must be 'adam' or None"):
        train(parameters, optimizer, 1)
