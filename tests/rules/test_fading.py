"""Without a gradient an update dies with the momentum; a vanishing gradient moves nothing."""

import pytest
import torch
from conftest import make_rule

from learned_opt import from_pretrained
from learned_opt.rules import Context

# The two rules of papers that write their updates by a network alone are left as published.
RULES = [
    "sgd",
    "momentum",
    "rmsprop",
    "adam",
    "orthogonal-momentum",
    "general",
    "adam-lstm",
    "digits-lstm",
    "step-size-lstm",
]


def make(name):
    rule = from_pretrained(name) if name == "digits-lstm" else make_rule(name, spread=0.1)
    return rule.requires_grad_(False)


def positions(rule, gradients):
    parameter = torch.ones(1)
    state, context = rule.init_state(parameter), Context(total_steps=torch.tensor(2000.0))
    found = []
    for gradient in gradients:
        (delta,), (state,) = rule([torch.full((1,), gradient)], [parameter], [state], context)
        parameter = parameter + rule.default_lr * delta
        found.append(parameter.item())
    return found


@pytest.mark.parametrize("name", RULES)
def test_without_a_gradient_the_update_dies(name):
    found = positions(make(name), [1.0] * 10 + [0.0] * 1000)
    assert found[9] < 1  # it moved
    assert found[-1] == pytest.approx(found[300], abs=1e-3)


@pytest.mark.parametrize("name", ["adam-lstm", "digits-lstm"])
def test_gradients_of_unknown_size_move_nothing(name):
    rule = make(name)
    signs = torch.randn(100, generator=torch.Generator().manual_seed(0)).sign().tolist()
    assert positions(rule, [1e-15 * sign for sign in signs])[-1] == pytest.approx(1, abs=1e-4)
    assert abs(positions(rule, [1e-5 * sign for sign in signs])[-1] - 1) > 1e-3
