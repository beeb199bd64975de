"""Defaults of the task families, written down: what a rule was meta-trained on depends on them."""

import math

import pytest

from meta_train.tasks import create_task, list_tasks
from meta_train.tasks.describe import describe

NETWORKS = {
    "split": "train",
    "batch_size": [16, 64],
    "scale_spread": 0.5,
    "few_probability": 0.4,
    "few_examples": [100, 1000],
    "full_rows": 1000,
}
ACTIVATIONS = ["tanh", "relu", "gelu"]
IMAGES = ["digits", "photos"]
DEFAULTS = {
    "digits-mlp": {"hidden": [20], "activation": "sigmoid", "batch_size": 128},
    "quadratic": {"dimensions": 10},
    "test-functions": {"dimensions": [2, 10]},
    "logistic-regression": {
        **NETWORKS,
        "data": ["digits", "iris", "wine", "breast-cancer", "diabetes"],
    },
    "random-mlp": {
        **NETWORKS,
        "data": IMAGES,
        "depth": [1, 3],
        "width": [12, 32],
        "activations": ACTIVATIONS,
    },
    "conv": {**NETWORKS, "data": IMAGES, "depth": [1, 3], "channels": [4, 12], "normalize": True},
    "autoencoder": {
        **NETWORKS,
        "data": IMAGES,
        "width": [16, 48],
        "code": [2, 12],
        "activations": ACTIVATIONS,
    },
    "regression": {
        "inputs": [1, 16],
        "outputs": [1, 4],
        "examples": [64, 256],
        "depth": [0, 3],
        "width": [8, 48],
        "activations": [*ACTIVATIONS, "silu"],
        "batch_size": [4, 64],
        "whole_probability": 0.5,
        "log_condition": 7.0,
        "noise_probability": 0.5,
        "scale_spread": 0.5,
    },
    "word-pairs": {
        "vocabulary": [100, 1000],
        "topics": [4, 32],
        "width": [4, 16],
        "negatives": 3,
        "batch_size": [8, 64],
    },
    "char-recurrent": {
        **NETWORKS,
        "length": [6, 12],
        "width": [16, 32],
        "cells": ["tanh", "gated"],
    },
    "char-rnn": {**NETWORKS, "length": [12, 24], "width": [16, 32]},
    "char-transformer": {
        **NETWORKS,
        "length": [12, 24],
        "width": [16, 32],
        "depth": [1, 2],
        "heads": 2,
        "tied": False,
    },
    "sine": {
        "shots": 10,
        "queries": 10,
        "amplitude": [0.1, 5.0],
        "phase": [0.0, math.pi],
        "domain": [-5.0, 5.0],
        "hidden": [40, 40],
    },
}


WITHOUT_SETTINGS = {"mixture", "varied"}


@pytest.mark.parametrize("name", sorted(set(list_tasks()) - WITHOUT_SETTINGS))
def test_a_family_has_its_published_defaults(name):
    assert name in DEFAULTS, "write its defaults down above"
    described = describe(create_task(name))
    assert {key: described[key] for key in DEFAULTS[name]} == DEFAULTS[name]


def test_a_mixture_has_each_family_for_training_as_often_as_the_others():
    described = describe(create_task("mixture"))
    assert described["families"].keys() == DEFAULTS.keys() - {"sine"}
    assert described["weights"] == [1.0] * 12
