"""A plan that is ignored, exceeded or replaced is said once."""

import copy
import warnings

import pytest
import torch
from conftest import make_rule
from torch import nn

from learned_opt import LearnedOptimizer

PLANNED = ["orthogonal-momentum", "step-size-lstm"]


def make(name, total_steps, count=1):
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(count)]
    return LearnedOptimizer(parameters, rule=make_rule(name), total_steps=total_steps)


def warned(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [(one.category, str(one.message), one.filename) for one in caught]


def step(optimizer, steps=1):
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones(2)
        optimizer.step()


@pytest.mark.parametrize("name", PLANNED)
def test_steps_past_the_plan_are_said_once(name):
    optimizer = make(name, 3)
    assert warned(lambda: step(optimizer, 3)) == []
    ((category, message, filename),) = warned(lambda: step(optimizer, 3))
    assert category is RuntimeWarning
    assert message == (
        "step 4 is past total_steps=3, the planned number of optimizer steps: updates are now "
        "about a hundredth of their usual size. Give the number of steps of the whole training"
    )
    assert filename == __file__


@pytest.mark.parametrize("resume", ["load_state_dict", "deepcopy"])
def test_a_resumed_run_counts_on(resume):
    optimizer = make("orthogonal-momentum", 3)
    step(optimizer, 2)
    if resume == "deepcopy":
        resumed = copy.deepcopy(optimizer)
    else:
        resumed = make("orthogonal-momentum", 3)
        resumed.load_state_dict(optimizer.state_dict())
    assert warned(lambda: step(resumed)) == []
    ((_, message, _),) = warned(lambda: step(resumed))
    assert message.startswith("step 4 is past total_steps=3")


def test_without_a_plan_or_a_gradient_nothing_is_said():
    assert warned(lambda: step(make("orthogonal-momentum", None), 5)) == []
    optimizer = make("orthogonal-momentum", 1)
    assert warned(lambda: [optimizer.step() for _ in range(3)]) == []


def test_a_group_that_comes_later_has_its_own_count():
    optimizer = make("orthogonal-momentum", 100)
    step(optimizer, 5)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "total_steps": 2})
    assert warned(lambda: step(optimizer, 2)) == []
    ((_, message, _),) = warned(lambda: step(optimizer))
    assert message.startswith("step 3 is past total_steps=2")


@pytest.mark.parametrize("name", PLANNED)
def test_a_loaded_plan_that_replaces_the_constructors_is_said(name):
    saved = make(name, 3)
    step(saved)
    resumed = make(name, 30)
    ((category, message, filename),) = warned(lambda: resumed.load_state_dict(saved.state_dict()))
    assert category is UserWarning
    assert message == (
        "the loaded state has total_steps=3, which replaces the constructor's total_steps=30; to "
        'change the plan, set optimizer.param_groups[0]["total_steps"] after loading'
    )
    assert filename == __file__
    assert resumed.param_groups[0]["total_steps"] == 3
    assert warned(lambda: make(name, 3).load_state_dict(saved.state_dict())) == []


def test_a_rule_that_ignores_the_plan_says_so():
    ((category, message, filename),) = warned(lambda: make("adam", 10))
    assert category is UserWarning
    assert message == "rule Adam ignores total_steps=10: it makes no plan"
    assert filename == __file__
    assert warned(lambda: make("adam", None)) == []
    for name in PLANNED:
        assert warned(lambda name=name: make(name, 10)) == []
