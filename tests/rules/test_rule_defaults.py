"""Defaults of every rule, written down: weights and results of users depend on them."""

import pytest
import torch

from learned_opt import create_rule, list_rules
from learned_opt.rules.parts.lstm_cell import LSTMCell

GATES = {
    "hidden_size": 20,
    "p": 10.0,
    "recurrence": "value",
    "init_range": 0.01,
    "forget_bias": (4.0, 5.0),
    "input_bias": (-5.0, -4.0),
}
DEFAULTS = {
    "sgd": (1e-2, {}),
    "momentum": (1e-2, {"momentum": 0.9, "dampening": 0.0, "nesterov": False}),
    "rmsprop": (1e-2, {"alpha": 0.99, "eps": 1e-8}),
    "adam": (1e-3, {"betas": (0.9, 0.999), "eps": 1e-8}),
    "orthogonal-momentum": (
        6.8e-3,
        {"momentum": 0.8, "iterations": 4, "warm_up": 20.0, "decay_after": 50.0},
    ),
    "general": (
        6.8e-3,
        {
            "hidden_size": 0,
            "bound": 1.0,
            "vector_bound": 0.5,
            "coordinate_size": 0,
            "coordinate_bound": 0.5,
        },
    ),
    "lstm": (
        1.0,
        {"hidden_sizes": (20, 20), "p": 10.0, "output_scale": 0.1, "forget_bias": 1.0},
    ),
    "gated-lstm": (1.0, {**GATES, "use_loss": True}),
    "momentum-gated-lstm": (1.0, {**GATES, "use_loss": False}),
    "adam-lstm": (
        0.03,
        {
            "hidden_size": 12,
            "betas": (0.5, 0.9, 0.99),
            "fast_beta": 0.95,
            "slow_beta": 0.999,
            "log_range": 1.0,
            "log_gain": 5.0,
            "direction_gain": 1.5,
            "decay_steps": 100.0,
            "differentiate_inputs": False,
        },
    ),
    "step-size-lstm": (3e-3, {"hidden_size": 16, "parameter_scale": False}),
}
"""Learning rate and settings by name."""


@pytest.mark.parametrize("name", list_rules())
def test_a_rule_has_its_published_defaults(name):
    assert name in DEFAULTS, "write its defaults down above"
    rule = create_rule(name)
    assert (rule.default_lr, rule.settings) == DEFAULTS[name]


def test_a_cell_starts_with_weights_up_to_one_over_the_root_of_its_units():
    torch.manual_seed(0)
    weight = LSTMCell(100, 25).weight
    assert 0.199 < weight.abs().max() <= 0.2
