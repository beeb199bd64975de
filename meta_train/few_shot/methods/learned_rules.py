"""Learned initialisation x learned update rule."""

from __future__ import annotations

from dataclasses import replace

from meta_train.few_shot.methods.presets import (
    ADAM,
    LEARNED_RULE,
    REPTILE_SGD,
    REPTILE_SGD_SINE,
    REPTILE_TWENTY_WAYS,
    SINE_SUM,
    gates_of_gradient_descent,
    learned_rule_on_sine,
)
from meta_train.few_shot.methods.spec import FewShotMethod

LEARNED_RULES = {
    "meta-lstm": FewShotMethod(
        source="Ravi & Larochelle 2017, 'Optimization as a model for few-shot learning'",
        omniglot=replace(
            LEARNED_RULE,
            rule="gated-lstm",
            begins_with=None,
            train_steps=12,
            test_steps=12,
            batch_norm="support",
            outer={**ADAM, "grad_clip_norm": 0.25},
        ),
        five_shots={"train_steps": 8, "test_steps": 8},
        sine=replace(
            learned_rule_on_sine("gated-lstm"),
            begins_with=None,
            batch_norm="support",
            estimator="first-order",  # The paper treats the gradients as constants.
            second_order=None,
            outer={**SINE_SUM, "outer_steps": 300},
        ),
    ),
    "learned-gated-lstm": FewShotMethod(
        source="learned initialisation x gated-lstm without units, starts as MAML",
        omniglot=replace(
            LEARNED_RULE, rule="gated-lstm", rule_settings=gates_of_gradient_descent(0.4)
        ),
        twenty_ways={"rule_settings": gates_of_gradient_descent(0.1)},
        sine=replace(
            learned_rule_on_sine("gated-lstm"), rule_settings=gates_of_gradient_descent(0.01)
        ),
    ),
    **{
        f"learned-{rule}": FewShotMethod(
            source=f"learned initialisation x {rule}",
            omniglot=replace(LEARNED_RULE, rule=rule),
            sine=learned_rule_on_sine(rule),
        )
        for rule in ("lstm", "momentum-gated-lstm", "adam-lstm", "step-size-lstm")
    },
    "reptile-lstm": FewShotMethod(
        source="Reptile x a pretrained LSTM rule",
        omniglot=replace(
            REPTILE_SGD,
            rule="digits-lstm",
            inner_lr=None,
            test_steps=10,
            estimator_settings={"freeze_rule": True},
        ),
        twenty_ways=REPTILE_TWENTY_WAYS,
        sine=replace(
            REPTILE_SGD_SINE,
            rule="digits-lstm",
            inner_lr=None,
            estimator_settings={"freeze_rule": True},
        ),
    ),
}
