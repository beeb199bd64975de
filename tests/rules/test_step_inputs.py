"""`apply_rule` refuses wrong inputs in one line that names the culprit."""

import gc
import math
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import vmap

from learned_opt.functional import apply_rule
from learned_opt.rules import Context, UpdateRule, create_rule, list_rules

NUMBER = torch.tensor(1.0)
SHAPES = ((2, 3), (3,))


def step(name="adam", *, states_of=None, lr=0.1, **changed):
    """One step of two tensors, [2, 3] and [3], with some inputs replaced."""
    rule = create_rule(name)
    maker = rule if states_of is None else create_rule(states_of)
    inputs = {
        "rule": rule,
        "gradients": [torch.ones(shape) for shape in SHAPES],
        "parameters": [torch.ones(shape) for shape in SHAPES],
        "states": [maker.init_state(torch.ones(shape)) for shape in SHAPES],
        "context": Context(loss=NUMBER, total_steps=NUMBER),
    }
    options = {name: changed.pop(name) for name in list(changed) if name not in inputs}
    return apply_rule(*{**inputs, **changed}.values(), lr=lr, **options)


def adam_states(*shapes):
    return [create_rule("adam").init_state(torch.ones(shape)) for shape in shapes]


ONES, INTEGERS = torch.ones(3), torch.ones(3, dtype=torch.int64)
COMPLEX = torch.ones(3, dtype=torch.complex64)
REAL = "must hold real floating-point numbers, got torch."

WRONG_TENSORS = [
    ({"gradients": [ONES, ONES]}, "gradients[0] has shape [3], its parameter [2, 3]"),
    (
        {"gradients": [torch.ones(3, 2), ONES]},
        "gradients[0] has shape [3, 2], its parameter [2, 3]",
    ),
    (
        {"gradients": [torch.ones(2, 3), torch.ones(1)]},
        "gradients[1] has shape [1], its parameter [3]",
    ),
    ({"gradients": [torch.ones(2, 3)]}, "got 1 gradients, 2 parameters and 2 states"),
    ({"parameters": [torch.ones(2, 3)]}, "got 2 gradients, 1 parameters and 2 states"),
    ({"states": []}, "got 2 gradients, 2 parameters and 0 states"),
    ({"gradients": [torch.ones(2, 3), INTEGERS]}, f"gradients[1] {REAL}int64"),
    ({"parameters": [torch.ones(2, 3), INTEGERS]}, f"parameters[1] {REAL}int64"),
    ({"gradients": [torch.ones(2, 3), COMPLEX]}, f"gradients[1] {REAL}complex64"),
    ({"parameters": [torch.ones(2, 3), COMPLEX]}, f"parameters[1] {REAL}complex64"),
    (
        {"gradients": [torch.ones(2, 3), ONES.to_sparse()]},
        "gradients[1] is sparse: not supported",
    ),
]

WRONG_TYPES = [
    (
        {"gradients": [None, ONES]},
        "gradients[0] is None: leave the tensor out of all three lists",
    ),
    ({"parameters": [torch.ones(2, 3), "bias"]}, "parameters[1] must be a tensor, got 'bias'"),
    ({"gradients": torch.ones(2, 3)}, "gradients must be a list, got a Tensor [2, 3]"),
    (
        {"parameters": nn.Linear(3, 2).parameters()},
        "parameters must be a list, got a generator",
    ),
    ({"parameters": {"weight": ONES}}, "parameters must be a list, got a dict"),
    ({"states": [ONES, ONES]}, "states[0] must be a dict of tensors, got a Tensor [3]"),
    ({"rule": "adam"}, "rule must be an UpdateRule, got 'adam': create_rule makes a rule"),
    ({"context": None}, "context must be a Context, got None"),
    ({"context": {}}, "context must be a Context, got {}"),
    ({"maximize": "no"}, "maximize must be True or False, got 'no'"),
]

WRONG_SETTINGS = [
    ({"lr": math.nan}, "lr must be a finite number, got nan"),
    ({"lr": math.inf}, "lr must be a finite number, got inf"),
    ({"lr": None}, "lr must be a finite number, got None"),
    ({"lr": "0.1"}, "lr must be a finite number, got '0.1'"),
    ({"lr": True}, "lr must be a finite number, got True"),
    ({"lr": torch.ones(3)}, "a tensor lr must have one element, got shape (3,)"),
    ({"lr": NUMBER + 1j}, "a tensor lr must be real, got torch.complex64"),
    ({"weight_decay": math.nan}, "weight_decay must be finite and at least 0, got nan"),
    ({"weight_decay": -0.1}, "weight_decay must be finite and at least 0, got -0.1"),
    (
        {"weight_decay": torch.ones(3)},
        "a tensor weight_decay must have one element, got shape (3,)",
    ),
    ({"context": Context(loss=1.5)}, "context.loss must be a 0-dim tensor, got 1.5"),
    (
        {"context": Context(loss=torch.ones(3))},
        "context.loss must be a 0-dim tensor, got a Tensor [3]",
    ),
    (
        {"context": Context(total_steps=100)},
        "context.total_steps must be a 0-dim tensor, got 100",
    ),
]


@pytest.mark.parametrize(("changed", "said"), WRONG_TENSORS + WRONG_SETTINGS)
def test_a_wrong_value_is_named(changed, said):
    with pytest.raises(ValueError) as caught:
        step(**changed)
    assert str(caught.value) == said


@pytest.mark.parametrize(("changed", "said"), WRONG_TYPES)
def test_a_wrong_type_is_named(changed, said):
    with pytest.raises(TypeError) as caught:
        step(**changed)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("rule", "states_of", "said"),
    [
        ("sgd", "adam", "states[0] has 'm': rule SGD did not make it for"),
        ("momentum", "adam", "states[0] has 'v': rule Momentum did not make it for"),
        ("adam", "momentum", "states[0] has no 'v': rule Adam did not make it for"),
        ("adam", "orthogonal-momentum", "states[0] has 'average': rule Adam did not make it for"),
        ("lstm", "sgd", "states[0] has no 'c0': rule CoordinateLSTM did not make it for"),
    ],
)
def test_the_state_of_another_rule_is_refused(rule, states_of, said):
    with pytest.raises(ValueError) as caught:
        step(rule, states_of=states_of)
    expected = f"{said} a parameter of shape [2, 3], see init_state"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (adam_states((3,), (2, 3)), "states[0] has 'm' of shape [3], not [2, 3]: rule Adam"),
        (adam_states((3, 2), (3,)), "states[0] has 'm' of shape [3, 2], not [2, 3]: rule Adam"),
        (adam_states((2, 3), (1,)), "states[1] has 'm' of shape [1], not [3]: rule Adam"),
        (
            [{**state, "step": torch.zeros(1)} for state in adam_states((2, 3), (3,))],
            "states[0] has 'step' of shape [1], not []: rule Adam",
        ),
    ],
)
def test_the_state_of_another_shape_is_refused(states, said):
    with pytest.raises(ValueError) as caught:
        step(states=states)
    assert str(caught.value).startswith(f"{said} did not make it for a parameter of shape")


@pytest.mark.parametrize("rule", list_rules())
def test_the_states_of_every_rule_fit(rule):
    moved, states = step(rule)
    assert [tuple(value.shape) for value in moved] == [(2, 3), (3,)]
    assert [float(state["step"]) for state in states] == [1, 1]


def test_the_states_of_another_direction_fit():
    rule = create_rule("orthogonal-momentum")
    parameter = torch.ones(4, 3)
    state = rule.init_state(parameter, direction="adam")
    (moved,), _ = apply_rule(rule, [parameter], [parameter], [state], Context(), lr=0.1)
    assert moved.isfinite().all()
    assert not moved.equal(parameter)


@pytest.mark.parametrize("number", [torch.tensor([0.5]), np.float32(0.5), torch.tensor(0.5)])
def test_settings_of_one_number_are_taken(number):
    # sgd: 1 - 0.5 * 1 - 0.5 * 0.5 * 1
    moved, _ = step("sgd", lr=number, weight_decay=number)
    assert [value.tolist() for value in moved] == [[[0.25] * 3] * 2, [0.25] * 3]


def test_a_negative_learning_rate_is_taken():
    moved, _ = step("sgd", lr=-0.5)
    assert moved[1].tolist() == [1.5, 1.5, 1.5]


def test_the_learning_rate_can_be_learned():
    lr = torch.tensor(0.1, requires_grad=True)
    moved, _ = step("sgd", lr=lr)
    (slope,) = torch.autograd.grad(moved[0].sum(), lr)
    assert float(slope) == -6


def test_under_vmap_tensors_of_one_run_are_compared():
    rule = create_rule("adam")

    def one(gradient, parameter):
        states = [rule.init_state(parameter)]
        (moved,), _ = apply_rule(rule, [gradient], [parameter], states, Context(), lr=0.1)
        return moved

    moved = vmap(one)(torch.ones(4, 2, 3), torch.ones(4, 2, 3))
    torch.testing.assert_close(moved, torch.full((4, 2, 3), 0.9))
    with pytest.raises(ValueError, match=r"gradients\[0\] has shape \[3\], its parameter \[2, 3\]"):
        vmap(one)(torch.ones(4, 3), torch.ones(4, 2, 3))


def test_a_step_compiles_in_one_graph():
    rule, parameter = create_rule("adam"), torch.ones(2, 3)
    states = [rule.init_state(parameter)]

    def once(gradient):
        return apply_rule(rule, [gradient], [parameter], states, Context(), lr=0.1)[0][0]

    compiled = torch.compile(once, fullgraph=True, backend="eager")
    assert compiled(torch.ones(2, 3)).equal(once(torch.ones(2, 3)))


class ReadsValues(UpdateRule):
    """A user's rule whose state cannot be made without memory."""

    def init_tensor_state(self, parameter):
        return {"start": torch.full((), float(parameter.sum()))}

    def update(self, gradients, parameters, states, context):
        return [-gradient for gradient in gradients], list(states)


def test_a_rule_whose_state_needs_values_steps():
    rule, parameter = ReadsValues(), torch.ones(3)
    states = [rule.init_state(parameter)]
    (moved,), (state,) = apply_rule(rule, [ONES], [parameter], states, Context(), lr=0.5)
    assert moved.tolist() == [0.5, 0.5, 0.5]
    assert float(state["start"]) == 3


class Failing(ReadsValues):
    """A rule with a fault of its own."""

    def init_tensor_state(self, parameter):
        return {}

    def update(self, gradients, parameters, states, context):
        raise RuntimeError("a fault of the rule")


def test_an_error_of_the_rule_itself_is_raised_as_it_is():
    rule = Failing()
    with pytest.raises(RuntimeError, match=r"^a fault of the rule$"):
        apply_rule(rule, [ONES], [ONES], [rule.init_state(ONES)], Context(), lr=0.5)


def test_a_rule_that_was_stepped_can_be_collected():
    rule = create_rule("sgd")
    apply_rule(rule, [ONES], [ONES], [rule.init_state(ONES)], Context(), lr=0.5)
    kept = weakref.ref(rule)
    del rule
    gc.collect()
    assert kept() is None
