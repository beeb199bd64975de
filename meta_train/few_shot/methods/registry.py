"""The rows of the few-shot table by name. A new method is one row here.

Figures are percent on Omniglot, with the +- that the papers give (MAML's is a 95% interval over
test tasks; others do not all say). The networks and protocols behind them differ in detail.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from learned_opt.registry import look_up
from meta_train.few_shot.methods.presets import (
    ADAM,
    ADAM_INSIDE,
    LSTM,
    MAML,
    METRIC,
    REPTILE,
    REPTILE_SINE,
    REPTILE_STEPS,
    SINE,
    SINE_ADAM,
    SINE_STEPS,
    SINE_SUM,
    descending,
    sine_lstm,
)
from meta_train.few_shot.methods.spec import FewShotMethod

Figures = dict[tuple[int, int], tuple[float, float | None]]


def _figures(*values: tuple[float, float] | float) -> Figures:
    """5-way 1-shot, 5-way 5-shot, 20-way 1-shot, 20-way 5-shot."""
    places = ((5, 1), (5, 5), (20, 1), (20, 5))
    pairs = (value if isinstance(value, tuple) else (value, None) for value in values)
    return dict(zip(places, pairs, strict=True))


FINN = "Finn et al. 2017, arXiv 1703.03400"
NICHOL = "Nichol et al. 2018, arXiv 1803.02999"


def _reptile(**changes: object) -> FewShotMethod:
    settings: dict[str, object] = {"source": NICHOL, "meta_batch": 5, **REPTILE_STEPS, **changes}
    return FewShotMethod(**settings)  # type: ignore[arg-type]


def _row(shared: Mapping[str, object], source: str, **changes: object) -> FewShotMethod:
    return FewShotMethod(**{"source": source, **shared, **changes})  # type: ignore[arg-type]


ROWS: Mapping[str, FewShotMethod] = MappingProxyType(
    {
        "maml": _row(
            MAML, FINN, published=_figures((98.7, 0.4), (99.9, 0.1), (95.8, 0.3), (98.9, 0.2))
        ),
        "fomaml": _row(
            MAML,
            f"{FINN}: first order; figures of Nichol et al. 2018",
            estimator="first-order",
            published=_figures((98.3, 0.5), (99.2, 0.2), (89.4, 0.5), (97.9, 0.1)),
        ),
        "maml-fresh-head": _row(MAML, "MAML, heads fresh for each task", initialization="body"),
        "maml-stored-heads": _row(
            MAML,
            "MAML on 200 tasks that come again, whose heads are stored",
            initialization="body",
            stored_heads=200,
        ),
        "maml-further": _row(
            LSTM,
            "MAML trained further as learned-gated-lstm is, but for its step, which stays fixed",
            inner_lr=0.4,
            twenty_ways={"inner_lr": 0.1},
            sine=sine_lstm("gated-lstm", inner_lr=0.01),
        ),
        "maml-negative-rate": _row(
            MAML,
            "the inner rate of MAML with the other sign",
            inner_lr=-0.4,
            twenty_ways={**MAML["twenty_ways"], "inner_lr": -0.1},  # type: ignore[dict-item]
            sine={**SINE, "inner_lr": -0.01},
        ),
        "joint": _row(
            {**MAML, "sine": {**SINE, "train_steps": 0}},
            "MAML with zero inner steps",
            train_steps=0,
            twenty_ways={**MAML["twenty_ways"], "train_steps": 0},  # type: ignore[dict-item]
        ),
        "reptile": _reptile(
            **ADAM_INSIDE,
            published=_figures((97.68, 0.04), (99.48, 0.06), (89.43, 0.14), (97.12, 0.32)),
        ),
        "reptile-serial": _reptile(
            **ADAM_INSIDE,
            source="Reptile, one task at a time",
            meta_batch=1,
            outer={**REPTILE, "lr": 0.2},
        ),
        "reptile-sgd": _reptile(
            source="Reptile with SGD inside",
            rule="sgd",
            inner_lr=0.1,
            sine={**REPTILE_SINE, "inner_lr": 0.02},
        ),
        "anil": _row(
            {**MAML, "train_steps": 5, "test_steps": 5},
            "Raghu et al. 2019, arXiv 1909.09157",
            adapted="head",
            sine={**SINE, "test_steps": 1},  # beyond it single curves diverge
            # Their +- of 0.5 and 0.3 is a standard deviation over three seeds.
            published={(20, 1): (96.2, None), (20, 5): (98.0, None)},
        ),
        "imaml": _row(
            MAML,
            "Rajeswaran et al. 2019, arXiv 1909.04630",
            estimator="implicit",
            estimator_settings={"proximal": 2.0, "cg_steps": 5},
            inner_lr=0.1,
            train_steps=16,
            test_steps=16,
            twenty_ways={"train_steps": 25, "test_steps": 25, "meta_batch": 16},
            sine={
                **SINE,
                # With a pull of 2 steps end too far from the minimum, and units die. At a rate
                # of 0.01 phi becomes steeper until they diverge.
                "estimator_settings": {"proximal": 10.0, "cg_steps": 5},
                "inner_lr": 0.005,
                "train_steps": 25,
                "test_steps": 25,
                "outer": {**SINE_ADAM, "outer_steps": 1500},
            },
            published=_figures((99.16, 0.35), (99.67, 0.12), (94.46, 0.42), (98.69, 0.1)),
        ),
        "meta-sgd": _row(
            MAML,
            "Li et al. 2017, arXiv 1707.09835",
            rule="meta-sgd",
            inner_lr=None,
            test_steps=1,
            twenty_ways={"meta_batch": 16},
            sine={**SINE, "inner_lr": None, "test_steps": 1},  # beyond it diverges
            published=_figures((99.53, 0.26), (99.93, 0.09), (95.93, 0.38), (98.97, 0.19)),
        ),
        "layer-step-rates": _row(
            MAML,
            "Antoniou et al. 2019, arXiv 1810.09502: of MAML++, its learned rates",
            rule="layer-step-rates",
            rule_settings={"steps": 5, "init": 0.1},
            inner_lr=None,
            train_steps=5,
            test_steps=5,
            twenty_ways={"meta_batch": 16},
            sine={
                **SINE_STEPS,
                "inner_lr": None,
                "test_steps": 5,  # beyond them it diverges
                "rule_settings": {"steps": 5, "init": 0.01},
            },
            published_as="all of MAML++",
            published=_figures(99.47, 99.93, 97.65, 99.33),
        ),
        "meta-lstm": _row(
            LSTM,
            "Ravi & Larochelle 2017, 'Optimization as a model for few-shot learning'",
            rule="gated-lstm",
            begins_with=None,
            train_steps=12,
            test_steps=12,
            five_shots={"train_steps": 8, "test_steps": 8},
            batch_norm="support",
            outer={**ADAM, "grad_clip_norm": 0.25},
            sine=sine_lstm(
                "gated-lstm",
                estimator="first-order",
                second_order=None,  # the paper takes the gradients as constants
                outer={**SINE_SUM, "outer_steps": 300},
            ),
        ),
        "learned-gated-lstm": _row(
            LSTM,
            "learned initialisation x gated-lstm without units, begun as MAML",
            rule="gated-lstm",
            rule_settings=descending(0.4, hidden_size=0),
            twenty_ways={"rule_settings": descending(0.1, hidden_size=0)},
            sine=sine_lstm("gated-lstm", rule_settings=descending(0.01, hidden_size=0)),
        ),
        **{
            f"learned-{rule}": _row(
                LSTM, f"learned initialisation x {rule}", rule=rule, sine=sine_lstm(rule)
            )
            for rule in ("lstm", "momentum-gated-lstm", "adam-lstm", "step-size-lstm")
        },
        "reptile-lstm": _reptile(
            source="Reptile x a pretrained LSTM rule",
            rule="digits-lstm",
            inner_lr=None,
            test_steps=10,
            estimator_settings={"freeze_rule": True},
        ),
        "r2d2": _row(METRIC, "Bertinetto et al. 2019, arXiv 1805.08136", method="r2d2"),
        "metaoptnet": _row(METRIC, "Lee et al. 2019, arXiv 1904.03758", method="metaoptnet"),
        "siamese": _row(
            METRIC,
            "Koch et al. 2015; figures as in Finn et al. 2017",
            method="siamese",
            published=_figures(97.3, 98.4, 88.2, 97.0),
        ),
        "matching": _row(
            METRIC,
            "Vinyals et al. 2016, arXiv 1606.04080",
            method="matching",
            published=_figures(98.1, 98.9, 93.8, 98.5),
        ),
        "prototypical": _row(
            METRIC,
            "Snell et al. 2017, arXiv 1703.05175",
            method="prototypical",
            published=_figures(98.8, 99.7, 96.0, 98.9),
        ),
        "relation": _row(
            METRIC,
            "Sung et al. 2018, arXiv 1711.06025",
            method="relation",
            published=_figures((99.6, 0.2), (99.8, 0.1), (97.6, 0.2), (99.1, 0.1)),
        ),
        "fine-tuning": _row(
            METRIC,
            "baseline: all characters as classes, then a fresh head and all layers",
            initialization="body",
            trained_on="classes",
            rule="adam",
            inner_lr=1e-2,
            test_steps=20,
            meta_batch=2,
        ),
        "nearest-neighbour": _row(
            METRIC,
            "baseline: the features of fine-tuning",
            trained_on="nothing",
            uses="fine-tuning",
            method="nearest-neighbour",
            initialization="body",
        ),
    }
)


def list_rows(*, sine: bool = False) -> list[str]:
    """Names of all rows, or of those that fit sine curves."""
    return [name for name, row in ROWS.items() if not sine or row.sine is not None]


def get_row(name: str) -> FewShotMethod:
    """The row of this name.

    Raises:
        ValueError: there is none; gives the nearest name.
    """
    return look_up("few-shot row", name, ROWS)
