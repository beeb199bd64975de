"""The few-shot methods by name: one row per method, with its paper.

A row gives the paper, then initialisation x rule x adapted parameters x estimator as changes of a
preset (`meta_train.few_shot.methods.presets`). A new method is one row here.

Published figures are accuracies on Omniglot in percent, with the +- of the paper (MAML's is a 95%
interval over test tasks; not all papers define theirs). Networks and protocols differ in detail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from learned_opt.registry import look_up
from meta_train.few_shot.methods.presets import (
    ADAM,
    CLASSES,
    EMBEDDING,
    LEARNED_RULE,
    MAML,
    MAML_SINE,
    MAML_TWENTY_WAYS,
    READER,
    REPTILE,
    REPTILE_ADAM_TWENTY_WAYS,
    REPTILE_OUTER,
    REPTILE_SGD,
    REPTILE_SGD_SINE,
    REPTILE_SINE,
    REPTILE_TWENTY_WAYS,
    SINE_ADAM,
    SINE_SUM,
    gates_of_gradient_descent,
    learned_rule_on_sine,
)
from meta_train.few_shot.methods.spec import FewShotMethod, PublishedFigures


def _published(*figures: tuple[float, float] | float) -> PublishedFigures:
    """Figures of 5-way 1-shot, 5-way 5-shot, 20-way 1-shot and 20-way 5-shot, in this order."""
    places = ((5, 1), (5, 5), (20, 1), (20, 5))
    pairs = (figure if isinstance(figure, tuple) else (figure, None) for figure in figures)
    return dict(zip(places, pairs, strict=True))


FINN = "Finn et al. 2017, arXiv 1703.03400"
NICHOL = "Nichol et al. 2018, arXiv 1803.02999"

_MAML_FAMILY = {
    "maml": FewShotMethod(
        source=FINN,
        omniglot=MAML,
        twenty_ways=MAML_TWENTY_WAYS,
        sine=MAML_SINE,
        published=_published((98.7, 0.4), (99.9, 0.1), (95.8, 0.3), (98.9, 0.2)),
    ),
    "fomaml": FewShotMethod(
        source=f"{FINN}: first order; figures of Nichol et al. 2018",
        omniglot=replace(MAML, estimator="first-order"),
        twenty_ways=MAML_TWENTY_WAYS,
        sine=replace(MAML_SINE, estimator="first-order"),
        published=_published((98.3, 0.5), (99.2, 0.2), (89.4, 0.5), (97.9, 0.1)),
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

_REPTILE_FAMILY = {
    "reptile": FewShotMethod(
        source=NICHOL,
        omniglot=REPTILE,
        twenty_ways=REPTILE_ADAM_TWENTY_WAYS,
        sine=REPTILE_SINE,
        published=_published((97.68, 0.04), (99.48, 0.06), (89.43, 0.14), (97.12, 0.32)),
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

_OTHER_ESTIMATORS_AND_RATES = {
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
        published=_published((99.16, 0.35), (99.67, 0.12), (94.46, 0.42), (98.69, 0.1)),
    ),
    "meta-sgd": FewShotMethod(
        source="Li et al. 2017, arXiv 1707.09835",
        omniglot=replace(MAML, rule="meta-sgd", inner_lr=None, test_steps=1),
        twenty_ways={"meta_batch": 16},
        # It diverges after the step that it is trained for.
        sine=replace(MAML_SINE, rule="meta-sgd", inner_lr=None, test_steps=1),
        published=_published((99.53, 0.26), (99.93, 0.09), (95.93, 0.38), (98.97, 0.19)),
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
        published=_published(99.47, 99.93, 97.65, 99.33),
        published_as="all of MAML++",
    ),
}

_LEARNED_RULES = {
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

_HEADS = {
    "r2d2": FewShotMethod(
        source="Bertinetto et al. 2019, arXiv 1805.08136",
        omniglot=replace(EMBEDDING, head="r2d2"),
        sine=None,
    ),
    "metaoptnet": FewShotMethod(
        source="Lee et al. 2019, arXiv 1904.03758",
        omniglot=replace(EMBEDDING, head="metaoptnet"),
        sine=None,
    ),
    "siamese": FewShotMethod(
        source="Koch et al. 2015; figures as in Finn et al. 2017",
        omniglot=replace(EMBEDDING, head="siamese"),
        sine=None,
        published=_published(97.3, 98.4, 88.2, 97.0),
    ),
    "matching": FewShotMethod(
        source="Vinyals et al. 2016, arXiv 1606.04080",
        omniglot=replace(EMBEDDING, head="matching"),
        sine=None,
        published=_published(98.1, 98.9, 93.8, 98.5),
    ),
    "prototypical": FewShotMethod(
        source="Snell et al. 2017, arXiv 1703.05175",
        omniglot=replace(EMBEDDING, head="prototypical"),
        sine=None,
        published=_published(98.8, 99.7, 96.0, 98.9),
    ),
    "hallucination": FewShotMethod(
        source="Wang et al. 2018, arXiv 1801.05401: prototypical, and imagined examples",
        omniglot=replace(EMBEDDING, head="hallucination"),
        sine=None,
    ),
    "relation": FewShotMethod(
        source="Sung et al. 2018, arXiv 1711.06025",
        omniglot=replace(EMBEDDING, head="relation"),
        sine=None,
        published=_published((99.6, 0.2), (99.8, 0.1), (97.6, 0.2), (99.1, 0.1)),
    ),
}

_MARGINS = {
    "sphereface": FewShotMethod(
        source="Liu et al. 2017, arXiv 1704.08063",
        omniglot=replace(CLASSES, margin="sphereface", head="cosine-prototype"),
        sine=None,
    ),
    "cosface": FewShotMethod(
        source="Wang et al. 2018, arXiv 1801.09414; AM-softmax is the same",
        omniglot=replace(CLASSES, margin="cosface", head="cosine-prototype"),
        sine=None,
    ),
    "arcface": FewShotMethod(
        source="Deng et al. 2019, arXiv 1801.07698",
        omniglot=replace(CLASSES, margin="arcface", head="cosine-prototype"),
        sine=None,
    ),
    "triplet": FewShotMethod(
        source="Schroff et al. 2015, arXiv 1503.03832: semi-hard negatives",
        omniglot=replace(CLASSES, margin="triplet", head="euclidean-prototype"),
        sine=None,
    ),
}

SANTORO = "Santoro et al. 2016, arXiv 1605.06065"
_FIRST_AND_LATER = (1, 2, 3, 4, 5, 10)
"""Instances of a class whose accuracies Santoro et al. give (table 1, one-hot labels)."""

_READERS = {
    "lstm-reader": FewShotMethod(
        source=f"{SANTORO}: the LSTM beside it, which reads the training set",
        omniglot=replace(READER, reader="lstm"),
        sine=None,
        published_by_instance=dict(
            zip(_FIRST_AND_LATER, (24.4, 49.5, 55.3, 61.0, 63.6, 62.5), strict=True)
        ),
    ),
    "mann": FewShotMethod(
        source=f"{SANTORO}: a network with an external memory reads the training set",
        omniglot=replace(READER, reader="mann"),
        sine=None,
        published_by_instance=dict(
            zip(_FIRST_AND_LATER, (36.4, 82.8, 91.0, 92.6, 94.9, 98.1), strict=True)
        ),
    ),
}

_BASELINES = {
    "fine-tuning": FewShotMethod(
        source="baseline: train on all classes at once, then adapt all layers and a new head",
        omniglot=replace(CLASSES, rule="adam", inner_lr=1e-2, test_steps=20),
        sine=None,
    ),
    "nearest-neighbour": FewShotMethod(
        source="baseline: nearest support image in the features of fine-tuning",
        omniglot=replace(
            EMBEDDING,
            initialization="body",
            trained_on="nothing",
            uses="fine-tuning",
            head="nearest-neighbour",
        ),
        sine=None,
    ),
    "nearest-prototype": FewShotMethod(
        source="baseline: nearest class mean, by cosine, in the features of fine-tuning",
        omniglot=replace(
            EMBEDDING,
            initialization="body",
            trained_on="nothing",
            uses="fine-tuning",
            head="cosine-prototype",
        ),
        sine=None,
    ),
}

METHODS: Mapping[str, FewShotMethod] = MappingProxyType(
    {
        **_MAML_FAMILY,
        **_REPTILE_FAMILY,
        **_OTHER_ESTIMATORS_AND_RATES,
        **_LEARNED_RULES,
        **_HEADS,
        **_MARGINS,
        **_READERS,
        **_BASELINES,
    }
)


def list_methods(*, sine: bool = False) -> list[str]:
    """Names of all methods, in the order of the registry.

    Args:
        sine: only those that fit sine curves.
    """
    return [name for name, method in METHODS.items() if not sine or method.sine is not None]


def get_method(name: str) -> FewShotMethod:
    """The method of this name.

    Raises:
        ValueError: an unknown name; the message gives the nearest one.

    Examples:
        >>> get_method("maml").on_omniglot(ways=20, shots=1).inner_lr
        0.1
    """
    return look_up("few-shot method", name, METHODS)
