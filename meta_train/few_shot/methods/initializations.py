"""Learned initialisations with steps of gradient descent: MAML, Reptile and their kin."""

from __future__ import annotations

from dataclasses import replace

from meta_train.few_shot.methods.presets import (
    LEARNED_RULE,
    MAML,
    MAML_SINE,
    MAML_TWENTY_WAYS,
    REPTILE,
    REPTILE_ADAM_TWENTY_WAYS,
    REPTILE_OUTER,
    REPTILE_SGD,
    REPTILE_SGD_SINE,
    REPTILE_SINE,
    REPTILE_TWENTY_WAYS,
    SINE_ADAM,
    learned_rule_on_sine,
)
from meta_train.few_shot.methods.spec import FewShotMethod, published

FINN = "Finn et al. 2017, arXiv 1703.03400"
NICHOL = "Nichol et al. 2018, arXiv 1803.02999"

MAML_FAMILY = {
    "maml": FewShotMethod(
        source=FINN,
        omniglot=MAML,
        twenty_ways=MAML_TWENTY_WAYS,
        sine=MAML_SINE,
        published=published((98.7, 0.4), (99.9, 0.1), (95.8, 0.3), (98.9, 0.2)),
    ),
    "fomaml": FewShotMethod(
        source=f"{FINN}: first order; figures of Nichol et al. 2018",
        omniglot=replace(MAML, estimator="first-order"),
        twenty_ways=MAML_TWENTY_WAYS,
        sine=replace(MAML_SINE, estimator="first-order"),
        published=published((98.3, 0.5), (99.2, 0.2), (89.4, 0.5), (97.9, 0.1)),
    ),
    "maml-fresh-head": FewShotMethod(
        source="MAML with a new head for each task",
        omniglot=replace(MAML, initialization="body"),
        twenty_ways=MAML_TWENTY_WAYS,
        sine=replace(MAML_SINE, initialization="body"),
    ),
    "maml-stored-heads": FewShotMethod(
        source="MAML on 200 recurring tasks with stored heads",
        omniglot=replace(MAML, initialization="body", stored_heads=200),
        twenty_ways=MAML_TWENTY_WAYS,
        sine=replace(MAML_SINE, initialization="body", stored_heads=200),
    ),
    "maml-further": FewShotMethod(
        source="control of learned-gated-lstm: MAML trained as long, with its fixed step",
        omniglot=replace(LEARNED_RULE, rule="sgd", inner_lr=0.4),
        twenty_ways={"inner_lr": 0.1},
        sine=replace(learned_rule_on_sine("gated-lstm"), rule="sgd", inner_lr=0.01),
    ),
    "maml-negative-rate": FewShotMethod(
        source="MAML with a negative inner learning rate",
        omniglot=replace(MAML, inner_lr=-0.4),
        twenty_ways={**MAML_TWENTY_WAYS, "inner_lr": -0.1},
        sine=replace(MAML_SINE, inner_lr=-0.01),
    ),
    "joint": FewShotMethod(
        source="joint pre-training: MAML with zero inner steps",
        omniglot=replace(MAML, train_steps=0),
        twenty_ways={**MAML_TWENTY_WAYS, "train_steps": 0},
        sine=replace(MAML_SINE, train_steps=0),
    ),
}

REPTILE_FAMILY = {
    "reptile": FewShotMethod(
        source=NICHOL,
        omniglot=REPTILE,
        twenty_ways=REPTILE_ADAM_TWENTY_WAYS,
        sine=REPTILE_SINE,
        published=published((97.68, 0.04), (99.48, 0.06), (89.43, 0.14), (97.12, 0.32)),
    ),
    "reptile-serial": FewShotMethod(
        source="Reptile, one task per outer step",
        omniglot=replace(REPTILE, meta_batch=1, outer={**REPTILE_OUTER, "lr": 0.2}),
        twenty_ways=REPTILE_ADAM_TWENTY_WAYS,
        sine=replace(REPTILE_SINE, meta_batch=1, outer={**REPTILE_OUTER, "lr": 0.2}),
    ),
    "reptile-sgd": FewShotMethod(
        source="Reptile with SGD as the inner rule",
        omniglot=REPTILE_SGD,
        twenty_ways=REPTILE_TWENTY_WAYS,
        sine=REPTILE_SGD_SINE,
    ),
}

OTHER_ESTIMATORS_AND_RATES = {
    "anil": FewShotMethod(
        source="Raghu et al. 2019, arXiv 1909.09157",
        omniglot=replace(MAML, adapted="head", train_steps=5, test_steps=5),
        twenty_ways=MAML_TWENTY_WAYS,
        # After one step the error of single curves diverges.
        sine=replace(MAML_SINE, adapted="head", test_steps=1),
        # Their +- of 0.5 and 0.3 is a standard deviation over three seeds.
        published={(20, 1): (96.2, None), (20, 5): (98.0, None)},
    ),
    "imaml": FewShotMethod(
        source="Rajeswaran et al. 2019, arXiv 1909.04630",
        omniglot=replace(
            MAML,
            estimator="implicit",
            estimator_settings={"proximal": 2.0, "cg_steps": 5},
            inner_lr=0.1,
            train_steps=16,
            test_steps=16,
        ),
        twenty_ways={"train_steps": 25, "test_steps": 25, "meta_batch": 16},
        sine=replace(
            MAML_SINE,
            estimator="implicit",
            # At lambda 2 inner training ends too far from the minimum, and units die. At an inner
            # learning rate of 0.01 the initialisation becomes steeper until inner steps diverge.
            estimator_settings={"proximal": 10.0, "cg_steps": 5},
            inner_lr=0.005,
            train_steps=25,
            test_steps=25,
            outer={**SINE_ADAM, "outer_steps": 1500},
        ),
        published=published((99.16, 0.35), (99.67, 0.12), (94.46, 0.42), (98.69, 0.1)),
    ),
    "meta-sgd": FewShotMethod(
        source="Li et al. 2017, arXiv 1707.09835",
        omniglot=replace(MAML, rule="meta-sgd", inner_lr=None, test_steps=1),
        twenty_ways={"meta_batch": 16},
        # It diverges after the step that it is trained for.
        sine=replace(MAML_SINE, rule="meta-sgd", inner_lr=None, test_steps=1),
        published=published((99.53, 0.26), (99.93, 0.09), (95.93, 0.38), (98.97, 0.19)),
    ),
    "layer-step-rates": FewShotMethod(
        source="Antoniou et al. 2019, arXiv 1810.09502: the learned rates of MAML++",
        omniglot=replace(
            MAML,
            rule="layer-step-rates",
            rule_settings={"steps": 5, "init": 0.1},
            inner_lr=None,
            train_steps=5,
            test_steps=5,
        ),
        twenty_ways={"meta_batch": 16},
        sine=replace(
            MAML_SINE,
            rule="layer-step-rates",
            rule_settings={"steps": 5, "init": 0.01},
            inner_lr=None,
            train_steps=5,
            test_steps=5,  # It diverges after the steps that it has rates for.
        ),
        published=published(99.47, 99.93, 97.65, 99.33),
        published_as="all of MAML++",
    ),
}
