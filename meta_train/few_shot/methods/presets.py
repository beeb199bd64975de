"""Settings that several few-shot methods share: the papers', and our own for sine curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from meta_train.few_shot.methods.settings import MethodSettings

Overrides = Mapping[str, Any]

# Outer training.

ADAM = {"meta_optimizer": "adam", "lr": 1e-3}
REPTILE_OUTER = {
    "meta_optimizer": "sgd",
    "lr": 1.0,
    "schedule": "linear",
    "final_lr_fraction": 0.0,
    "grad_clip_norm": 1e6,  # The paper does not clip.
}
SINE_ADAM = {"meta_optimizer": "adam", "lr": 3e-3, "grad_clip_norm": 10.0, "outlier_factor": 1e6}
"""For 3000 outer steps, not the 70,000 of the released code: three times its learning rate.
Meta-gradients of large and small amplitudes differ widely: no outer step counts as an outlier."""
SINE_SUM = {**SINE_ADAM, "objective": "sum", "horizons": (1, 2, 10)}
"""Rewards a low error after every inner step, early steps most. With horizon 10 alone the error
after one step is 0.51, not 0.40 (learned-gated-lstm, 10 points)."""
SINE_OUTER_STEPS = {
    "lstm": 200,
    "gated-lstm": 1500,
    "momentum-gated-lstm": 200,
    "adam-lstm": 300,
    "step-size-lstm": 500,
}
"""Fewer outer steps for more expensive rules."""

# MAML: learned initialisation x SGD x all parameters x backprop.

MAML = MethodSettings(inner_lr=0.4, train_steps=1, test_steps=3, meta_batch=32, outer=ADAM)
MAML_TWENTY_WAYS: Overrides = {
    "inner_lr": 0.1,
    "train_steps": 5,
    "test_steps": 5,
    "meta_batch": 16,
}
MAML_SINE = replace(MAML, inner_lr=0.01, test_steps=10, meta_batch=25, outer=SINE_ADAM)

# Learned initialisation x learned rule x all parameters x first order (sine curves: backprop).

LEARNED_RULE = MethodSettings(
    inner_lr=None,
    estimator="first-order",
    train_steps=5,
    test_steps=5,
    meta_batch=4,  # Five steps of an LSTM on conv4 keep a graph of 1.3 GB per episode.
    begins_with="maml",
    # A higher learning rate undoes what MAML has learned: at ten times this one,
    # learned-gated-lstm (5-way 1-shot) lost a quarter of the accuracy in 172 outer steps.
    outer={**ADAM, "lr": 2e-4},
)
LEARNED_RULE_SINE = replace(
    LEARNED_RULE,
    estimator="full",
    second_order=True,
    meta_batch=10,
    train_steps=10,
    test_steps=10,
)

# Reptile: learned initialisation x SGD or Adam x all parameters x Reptile.

REPTILE_SGD = MethodSettings(
    rule="sgd",
    inner_lr=0.1,
    estimator="reptile",
    train_steps=5,
    test_steps=50,
    train_shots=10,
    inner_batch=10,
    meta_batch=5,
    outer=REPTILE_OUTER,
)
REPTILE_TWENTY_WAYS: Overrides = {"train_steps": 10, "inner_batch": 20}
REPTILE_SGD_SINE = replace(
    REPTILE_SGD, inner_lr=0.02, train_shots=None, inner_batch=None, test_steps=10
)
REPTILE = replace(REPTILE_SGD, rule="adam", rule_settings={"betas": (0.0, 0.999)}, inner_lr=1e-3)
REPTILE_ADAM_TWENTY_WAYS: Overrides = {**REPTILE_TWENTY_WAYS, "inner_lr": 5e-4}
REPTILE_SINE = replace(REPTILE, inner_lr=1e-2, train_shots=None, inner_batch=None, test_steps=10)

# Learned embedding x head in closed form or by distance, without inner steps.

EMBEDDING = MethodSettings(inner_lr=None, train_steps=0, test_steps=0, meta_batch=16, outer=ADAM)

# Embedding that is learned on all classes at once.

CLASSES = replace(EMBEDDING, initialization="body", trained_on="classes", meta_batch=2)

# A network that reads the training set, without inner steps.

READER = replace(
    EMBEDDING,
    meta_batch=16,
    outer={**ADAM, "runs": 1},  # One run holds all sequences of an outer step.
)


def learned_rule_on_sine(rule: str) -> MethodSettings:
    """Settings that learn a rule and an initialisation together on sine curves.

    Args:
        rule: an LSTM rule of `SINE_OUTER_STEPS`.
    """
    outer = {**SINE_SUM, "outer_steps": SINE_OUTER_STEPS[rule]}
    return replace(LEARNED_RULE_SINE, rule=rule, outer=outer)


def gates_of_gradient_descent(lr: float) -> dict[str, object]:
    """Settings of a gated LSTM without units that starts as gradient descent.

    The forget gate starts open (sigmoid(9) = 0.9999) and the input gate at the learning rate.

    Args:
        lr: learning rate, between 0 and 1.
    """
    logit = math.log(lr / (1 - lr))
    return {"forget_bias": (9, 9), "input_bias": (logit, logit), "hidden_size": 0}
