"""A rule of the user's own that returns tensors of other shapes is refused, wherever it is used."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from learned_opt import LearnedOptimizer
from learned_opt.adaptation import adapt
from learned_opt.functional import apply_rule
from learned_opt.rules import Context, CoordinateRule, UpdateRule


class Returning(UpdateRule):
    """Gradient descent with a memory, whose results pass through a function."""

    def __init__(self, change):
        super().__init__()
        self.change = change
        self.rate = nn.Parameter(torch.tensor(0.5))

    def init_tensor_state(self, parameter):
        return {"m": torch.zeros_like(parameter)}

    def update(self, gradients, parameters, states, context):
        deltas = [-self.rate * gradient for gradient in gradients]
        return self.change(deltas, [dict(state) for state in states])


def with_delta(k, value):
    def change(deltas, states):
        deltas[k] = value(deltas[k])
        return deltas, states

    return change


def with_state(k, **values):
    def change(deltas, states):
        states[k] = {
            key: value for key, value in {**states[k], **values}.items() if value is not ...
        }
        return deltas, states

    return change


WRONG = [
    (with_delta(1, lambda d: None), "a NoneType, not a tensor, for"),
    (with_delta(1, lambda d: d + 1j), "a delta of torch.complex64 for"),
    (with_delta(1, lambda d: d > 0), "a delta of torch.bool for"),
    (with_state(1, m=1.0), "a float, not a tensor, for"),
    (
        with_delta(1, lambda d: d.mean()),
        "a delta of shape [] for",
    ),
    (
        with_delta(1, lambda d: d[:1]),
        "a delta of shape [1] for",
    ),
    (
        with_delta(1, lambda d: d.expand(2, 2)),
        "a delta of shape [2, 2] for",
    ),
    (
        with_state(1, m=torch.zeros(())),
        "a state 'm' of shape [] in place of [2] for",
    ),
    (
        with_state(1, step=torch.ones(1)),
        "a state 'step' of shape [1] in place of [] for",
    ),
    (
        with_state(1, step=...),
        "a state of 'm' in place of 'm', 'step' for",
    ),
    (
        with_state(1, v=torch.zeros(2)),
        "a state of 'm', 'step', 'v' in place of 'm', 'step' for",
    ),
]
COUNTS = [
    (lambda deltas, states: (deltas[:1], states), "1 deltas and 2 states for 2 tensors"),
    (lambda deltas, states: (deltas, states[:1]), "2 deltas and 1 states for 2 tensors"),
]


def two_tensors():
    return [torch.ones(3, 2), torch.ones(2)]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_the_optimizer_names_rule_parameter_and_shapes_and_moves_nothing(change, said):
    model = nn.Linear(2, 3)
    model.register_parameter("offset", nn.Parameter(torch.ones(2)))
    named = [("weight", model.weight), ("offset", model.offset)]
    optimizer = LearnedOptimizer(named, rule=Returning(change))
    before = [value.detach().clone() for _, value in named]
    for _, value in named:
        value.grad = torch.ones_like(value)
    with pytest.raises(ValueError) as caught:
        optimizer.step()
    assert str(caught.value) == f"rule Returning returned {said} parameter offset, [2]"
    for (_, value), old in zip(named, before, strict=True):
        assert torch.equal(value, old)
    assert float(optimizer.state[model.offset]["step"]) == 0


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_differentiable_drivers_name_the_tensor_by_its_place(change, said):
    rule, parameters = Returning(change), two_tensors()
    states = [rule.init_state(value) for value in parameters]
    expected = f"rule Returning returned {said} tensor 1, [2]"
    with pytest.raises(ValueError) as caught:
        apply_rule(rule, parameters, parameters, states, Context(), lr=0.1)
    assert str(caught.value) == expected

    def step(rate, first, second):
        given = [first, second]
        return functional_call(rule, {"rate": rate}, (given, given, states))[0]

    with pytest.raises(ValueError) as caught:  # the axis of runs is no part of the shapes
        vmap(step)(torch.ones(4), torch.ones(4, 3, 2), torch.ones(4, 2))
    assert str(caught.value) == expected


@pytest.mark.parametrize(("change", "said"), COUNTS)
def test_as_many_results_as_tensors_are_asked_for(change, said):
    rule, parameters = Returning(change), two_tensors()
    states = [rule.init_state(value) for value in parameters]
    with pytest.raises(ValueError) as caught:
        rule(parameters, parameters, states)
    assert str(caught.value) == f"rule Returning returned {said}"


def test_adaptation_refuses_them_too():
    model, batch = nn.Linear(2, 3), (torch.ones(4, 2), torch.ones(4, 3))
    rule = Returning(with_delta(0, lambda delta: delta.mean()))
    with pytest.raises(
        ValueError, match=r"returned a delta of shape \[\] for parameter weight, \[3"
    ):
        adapt(model, batch, loss=nn.functional.mse_loss, rule=rule, steps=1)


def test_a_rule_that_was_cast_is_checked_too():
    rule = Returning(with_state(0, m=torch.zeros(3))).bfloat16()
    parameter = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"a state 'm' of shape \[3\] in place of \[3, 2\]"):
        rule([parameter], [parameter], [rule.init_state(parameter)])


def test_what_fits_passes_with_its_values():
    rule = Returning(lambda deltas, states: (deltas, states))
    (delta,), (state,) = rule(
        [torch.full((2,), 3.0)], [torch.ones(2)], [rule.init_state(torch.ones(2))]
    )
    assert delta.tolist() == [-1.5, -1.5]
    assert float(state["step"]) == 1


class WrongCoordinates(CoordinateRule):
    """Returns one number for all coordinates."""

    def coordinate_state(self):
        return {}

    def update_coordinates(self, gradient, parameter, state, context, gates=None):
        return -gradient.sum(), {}


def test_a_coordinate_rule_that_joins_coordinates_is_refused():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = LearnedOptimizer([parameter], rule=WrongCoordinates())
    parameter.grad = torch.ones(3)
    with pytest.raises((ValueError, RuntimeError)):
        optimizer.step()
    assert parameter.tolist() == [1, 1, 1]
