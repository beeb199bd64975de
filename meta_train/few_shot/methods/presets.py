"""Settings that rows of the few-shot table share: the papers', and our own for the sine curves."""

from __future__ import annotations

import math

ADAM = {"meta_optimizer": "adam", "lr": 1e-3}
REPTILE = {
    "meta_optimizer": "sgd",
    "lr": 1.0,
    "schedule": "linear",
    "final_lr_fraction": 0.0,
    "grad_clip_norm": 1e6,  # the paper's step is not clipped
}
SINE_ADAM = {"meta_optimizer": "adam", "lr": 3e-3, "grad_clip_norm": 10.0, "outlier_factor": 1e6}
"""A short training of the released code's 70000 steps: three times its rate. The meta-gradients of
loud and faint curves differ much, so none is an outlier."""
SINE = {
    "inner_lr": 0.01,
    "meta_batch": 25,
    "train_steps": 1,
    "test_steps": 10,
    "outer": SINE_ADAM,
}
SINE_OUTER_STEPS = {
    "lstm": 200,
    "gated-lstm": 1500,
    "momentum-gated-lstm": 200,
    "adam-lstm": 300,
    "step-size-lstm": 500,
}
"""The fewer the dearer a step is."""
SINE_STEPS = {**SINE, "train_steps": 5}
"""Rules that learn how to step are trained through several steps."""

MAML = {
    "inner_lr": 0.4,
    "train_steps": 1,
    "test_steps": 3,
    "meta_batch": 32,
    "outer": ADAM,
    "twenty_ways": {"inner_lr": 0.1, "train_steps": 5, "test_steps": 5, "meta_batch": 16},
    "sine": SINE,
}
LSTM = {
    "inner_lr": None,
    "estimator": "first-order",
    "train_steps": 5,
    "test_steps": 5,
    "meta_batch": 4,  # the graph of five steps of an LSTM on conv4 is 1.3 GB an episode
    "begins_with": "maml",
    # Higher ones undo what MAML has learned: at ten times this, learned-gated-lstm (5-way 1-shot)
    # had lost a quarter of it after 172 outer steps.
    "outer": {**ADAM, "lr": 2e-4},
}
REPTILE_SINE = {"train_shots": None, "inner_batch": None, "test_steps": 10}
REPTILE_STEPS = {
    "estimator": "reptile",
    "train_steps": 5,
    "test_steps": 50,
    "train_shots": 10,
    "inner_batch": 10,
    "outer": REPTILE,
    "twenty_ways": {"train_steps": 10, "inner_batch": 20},
    "sine": REPTILE_SINE,
}
ADAM_INSIDE = {
    "rule": "adam",
    "rule_settings": {"betas": (0.0, 0.999)},
    "inner_lr": 1e-3,
    "twenty_ways": {"train_steps": 10, "inner_batch": 20, "inner_lr": 5e-4},
    "sine": {**REPTILE_SINE, "inner_lr": 1e-2},
}
METRIC = {
    "inner_lr": None,
    "train_steps": 0,
    "test_steps": 0,
    "meta_batch": 16,
    "outer": ADAM,
    "sine": None,
}
SINE_SUM = {**SINE_ADAM, "objective": "sum", "horizons": (1, 2, 10)}
"""Good after every number of steps, the first ones rather: where all episodes have ten, the error
after one is 0.51 in place of 0.40 (learned-gated-lstm, 10 points)."""


def sine_lstm(rule: str, **changes: object) -> dict[str, object]:
    """How a learned rule and an initialisation are learned together on sine curves."""
    return {
        "estimator": "full",
        "second_order": True,
        "meta_batch": 10,
        "train_steps": 10,
        "test_steps": 10,
        "outer": {**SINE_SUM, "outer_steps": SINE_OUTER_STEPS[rule]},
        **changes,
    }


def descending(rate: float, **settings: object) -> dict[str, object]:
    """Settings with which a gated LSTM begins as gradient descent at this rate."""
    open_as_the_rate = math.log(rate / (1 - rate))
    return {"forget_bias": (9, 9), "input_bias": (open_as_the_rate,) * 2, **settings}
