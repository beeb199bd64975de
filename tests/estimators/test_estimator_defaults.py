"""Defaults of estimators, written down."""

import pytest

from meta_train.estimators import create_estimator

ES = {
    "sigma": 0.05,
    "clip": None,
    "penalty": None,
    "soft_sign": None,
    "floor": None,
    "base_loss_weight": None,
}
DEFAULTS = {
    "es": ES,
    "pes": ES,
    # Lambda and steps of conjugate gradient of iMAML's few-shot runs (arXiv 1909.04630).
    "implicit": {"proximal": 2.0, "cg_steps": 5, "batches": 1, "freeze_rule": False},
    "reptile": {"freeze_rule": False},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_estimator_has_its_published_defaults(name):
    estimator = create_estimator(name)
    assert {key: getattr(estimator, key) for key in DEFAULTS[name]} == DEFAULTS[name]
