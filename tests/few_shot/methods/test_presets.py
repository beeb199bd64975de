"""Default settings of outer and inner training, method by method, as written here."""

import pytest

from meta_train.few_shot.episodes import method_settings, training_task
from meta_train.few_shot.methods.registry import METHODS
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.training import train_settings

# Meta-optimizer, learning rate, meta-batch, outer steps, gradient clip.
# Horizons, inner learning rate, inner steps in testing.
OMNIGLOT = {
    "maml": ("adam", 1e-3, 32, 10_000, 1.0, (1,), 0.4, 3),
    "fomaml": ("adam", 1e-3, 32, 10_000, 1.0, (1,), 0.4, 3),
    "maml-fresh-head": ("adam", 1e-3, 32, 10_000, 1.0, (1,), 0.4, 3),
    "maml-stored-heads": ("adam", 1e-3, 32, 10_000, 1.0, (1,), 0.4, 3),
    "maml-further": ("adam", 2e-4, 4, 10_000, 1.0, (5,), 0.4, 5),
    "maml-negative-rate": ("adam", 1e-3, 32, 10_000, 1.0, (1,), -0.4, 3),
    "joint": ("adam", 1e-3, 32, 10_000, 1.0, (0,), 0.4, 3),
    "reptile": ("sgd", 1.0, 5, 10_000, 1e6, (5,), 1e-3, 50),
    "reptile-serial": ("sgd", 0.2, 1, 10_000, 1e6, (5,), 1e-3, 50),
    "reptile-sgd": ("sgd", 1.0, 5, 10_000, 1e6, (5,), 0.1, 50),
    "anil": ("adam", 1e-3, 32, 10_000, 1.0, (5,), 0.4, 5),
    "imaml": ("adam", 1e-3, 32, 10_000, 1.0, (16,), 0.1, 16),
    "meta-sgd": ("adam", 1e-3, 32, 10_000, 1.0, (1,), None, 1),
    "layer-step-rates": ("adam", 1e-3, 32, 10_000, 1.0, (5,), None, 5),
    "meta-lstm": ("adam", 1e-3, 4, 10_000, 0.25, (12,), None, 12),
    "learned-gated-lstm": ("adam", 2e-4, 4, 10_000, 1.0, (5,), None, 5),
    "learned-lstm": ("adam", 2e-4, 4, 10_000, 1.0, (5,), None, 5),
    "learned-momentum-gated-lstm": ("adam", 2e-4, 4, 10_000, 1.0, (5,), None, 5),
    "learned-adam-lstm": ("adam", 2e-4, 4, 10_000, 1.0, (5,), None, 5),
    "learned-step-size-lstm": ("adam", 2e-4, 4, 10_000, 1.0, (5,), None, 5),
    "reptile-lstm": ("sgd", 1.0, 5, 10_000, 1e6, (5,), None, 10),
    "r2d2": ("adam", 1e-3, 16, 10_000, 1.0, (0,), None, 0),
    "metaoptnet": ("adam", 1e-3, 16, 10_000, 1.0, (0,), None, 0),
    "siamese": ("adam", 1e-3, 16, 10_000, 1.0, (0,), None, 0),
    "matching": ("adam", 1e-3, 16, 10_000, 1.0, (0,), None, 0),
    "prototypical": ("adam", 1e-3, 16, 10_000, 1.0, (0,), None, 0),
    "hallucination": ("adam", 1e-3, 16, 10_000, 1.0, (0,), None, 0),
    "relation": ("adam", 1e-3, 16, 10_000, 1.0, (0,), None, 0),
    "sphereface": ("adam", 1e-3, 2, 10_000, 1.0, (0,), None, 0),
    "cosface": ("adam", 1e-3, 2, 10_000, 1.0, (0,), None, 0),
    "arcface": ("adam", 1e-3, 2, 10_000, 1.0, (0,), None, 0),
    "triplet": ("adam", 1e-3, 2, 10_000, 1.0, (0,), None, 0),
    "lstm-reader": ("adam", 1e-3, 1, 10_000, 1.0, (0,), None, 0),
    "mann": ("adam", 1e-3, 1, 10_000, 1.0, (0,), None, 0),
    "fine-tuning": ("adam", 1e-3, 2, 10_000, 1.0, (0,), 0.01, 20),
}
SINE = {
    "maml": ("adam", 3e-3, 25, 3000, 10.0, (1,), 0.01, 10),
    "fomaml": ("adam", 3e-3, 25, 3000, 10.0, (1,), 0.01, 10),
    "maml-fresh-head": ("adam", 3e-3, 25, 3000, 10.0, (1,), 0.01, 10),
    "maml-stored-heads": ("adam", 3e-3, 25, 3000, 10.0, (1,), 0.01, 10),
    "maml-further": ("adam", 3e-3, 10, 1500, 10.0, (1, 2, 10), 0.01, 10),
    "maml-negative-rate": ("adam", 3e-3, 25, 3000, 10.0, (1,), -0.01, 10),
    "joint": ("adam", 3e-3, 25, 3000, 10.0, (0,), 0.01, 10),
    "reptile": ("sgd", 1.0, 5, 3000, 1e6, (5,), 0.01, 10),
    "reptile-serial": ("sgd", 0.2, 1, 3000, 1e6, (5,), 0.01, 10),
    "reptile-sgd": ("sgd", 1.0, 5, 3000, 1e6, (5,), 0.02, 10),
    "anil": ("adam", 3e-3, 25, 3000, 10.0, (1,), 0.01, 1),
    "imaml": ("adam", 3e-3, 25, 1500, 10.0, (25,), 0.005, 25),
    "meta-sgd": ("adam", 3e-3, 25, 3000, 10.0, (1,), None, 1),
    "layer-step-rates": ("adam", 3e-3, 25, 3000, 10.0, (5,), None, 5),
    "meta-lstm": ("adam", 3e-3, 10, 300, 10.0, (1, 2, 10), None, 10),
    "learned-gated-lstm": ("adam", 3e-3, 10, 1500, 10.0, (1, 2, 10), None, 10),
    "learned-lstm": ("adam", 3e-3, 10, 200, 10.0, (1, 2, 10), None, 10),
    "learned-momentum-gated-lstm": ("adam", 3e-3, 10, 200, 10.0, (1, 2, 10), None, 10),
    "learned-adam-lstm": ("adam", 3e-3, 10, 300, 10.0, (1, 2, 10), None, 10),
    "learned-step-size-lstm": ("adam", 3e-3, 10, 500, 10.0, (1, 2, 10), None, 10),
    "reptile-lstm": ("sgd", 1.0, 5, 3000, 1e6, (5,), None, 10),
}


def settings_of(name, **job):
    config = FewShotConfig(row=name, **job)
    method = method_settings(name, config)
    return method, train_settings(method, config)


@pytest.mark.parametrize(
    ("data", "expected"), [("omniglot", OMNIGLOT), ("sine", SINE)], ids=["omniglot", "sine"]
)
def test_defaults_of_every_method(data, expected):
    found = {}
    for name in expected:
        method, train = settings_of(name, data=data)
        outer = train.meta_optimizer, train.lr, train.runs, train.outer_steps, train.grad_clip_norm
        found[name] = (*outer, train.horizons, method.inner_lr, method.test_steps)
    assert found == expected


def test_the_tables_above_have_every_method_that_trains():
    assert list(OMNIGLOT) == [
        name for name, method in METHODS.items() if method.omniglot.trained_on != "nothing"
    ]
    assert list(SINE) == [name for name, method in METHODS.items() if method.sine is not None]


@pytest.mark.parametrize("data", ["omniglot", "sine"])
def test_reptile_decays_its_learning_rate_linearly_to_zero(data):
    method, train = settings_of("reptile", data=data)
    assert (train.meta_optimizer, train.lr) == ("sgd", 1.0)
    assert (train.schedule, train.final_lr_fraction, train.outlier_factor) == ("linear", 0.0, 10.0)
    assert (method.rule, dict(method.rule_settings)) == ("adam", {"betas": (0.0, 0.999)})
    assert settings_of("maml", data=data)[1].schedule == "cosine"


@pytest.mark.parametrize(
    ("name", "ways", "shots", "expected"),
    [
        ("maml", 20, 1, (5, 5, 0.1, 16, None)),
        ("joint", 20, 1, (0, 5, 0.1, 16, None)),
        ("reptile", 5, 1, (5, 50, 1e-3, 5, 10)),
        ("reptile", 20, 5, (10, 50, 5e-4, 5, 20)),
        ("reptile-sgd", 20, 5, (10, 50, 0.1, 5, 20)),
        ("imaml", 20, 1, (25, 25, 0.1, 16, None)),
        ("meta-lstm", 5, 5, (8, 8, None, 4, None)),
        ("maml-further", 20, 1, (5, 5, 0.1, 4, None)),
    ],
)
def test_defaults_for_more_ways_and_shots(name, ways, shots, expected):
    found, _ = settings_of(name, data="omniglot", ways=ways, shots=shots)
    inner = found.train_steps, found.test_steps, found.inner_lr
    assert (*inner, found.meta_batch, found.inner_batch) == expected


def test_sine_curves_reward_every_step_of_learned_rules():
    for name, objective in (("maml", "last"), ("learned-lstm", "sum"), ("maml-further", "sum")):
        _, train = settings_of(name)
        assert (train.objective, train.outlier_factor) == (objective, 1e6)


def test_a_reader_takes_sixteen_sequences_of_ten_images_per_class_in_an_outer_step():
    config = FewShotConfig(row="mann", data="omniglot")
    method, train = settings_of("mann", data="omniglot")
    task = training_task(method, config)
    assert (task.sequences, task.instances, task.episodes.ways, train.runs) == (16, 10, 5, 1)
    assert not method.transductive


def test_strengths_of_the_pull_of_imaml():
    assert settings_of("imaml", data="omniglot")[0].proximal == 2.0
    assert settings_of("imaml")[0].proximal == 10.0


def test_a_gated_lstm_starts_as_gradient_descent():
    method, _ = settings_of("learned-gated-lstm", data="omniglot")
    (first, second) = method.rule_settings["input_bias"]
    assert first == second == pytest.approx(-0.405465)  # sigmoid: 0.4
    assert method.rule_settings["forget_bias"] == (9, 9)
    assert method.rule_settings["hidden_size"] == 0
