"""Helpers of the framework tests: small learned rules, and snapshots of runs."""

import io

import pytest
import torch
from conftest import clones, make_rule

SETTINGS = {
    "adam-lstm": {"hidden_size": 4},
    "lstm": {"hidden_sizes": (4,)},
    "gated-lstm": {"hidden_size": 4, "use_loss": False},
    "orthogonal-momentum": {},
    "general": {"hidden_size": 4, "coordinate_size": 2},
}

each_rule = pytest.mark.parametrize("rule_name", SETTINGS)


def small_rule(name="adam-lstm"):
    return make_rule(name, spread=0.1, **SETTINGS[name])


def loss_rule():
    """A rule that needs the loss."""
    return make_rule("gated-lstm", spread=0.1, hidden_size=4)


def snapshot(model, optimizer):
    """All values that a resumed run must share with the unbroken one; compare with `same`."""
    return clones(model.state_dict().values()), optimizer.state_dict()


def steps_taken(optimizer):
    """The number of steps that every parameter has taken."""
    (steps,) = {int(state["step"]) for state in optimizer.state_dict()["state"].values()}
    return steps


def through_a_file(value):
    """Save and load as a careful user would."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
