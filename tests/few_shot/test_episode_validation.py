"""Weights that are picked on episodes of validation."""

import pytest
import torch
from few_shot_cases import SMALL_SINE, TINY, rows_of, take_made_up

from learned_opt.initializers import load_initialization
from meta_train.cli import main
from meta_train.few_shot import train
from meta_train.few_shot.config import FewShotConfig
from meta_train.few_shot.evaluate import evaluate
from meta_train.few_shot.train import make_trainer, take
from meta_train.seeding import derive_seed

CPU = torch.device("cpu")
BAD = {"runs": 2, "lr": 0.5, "schedule": "constant", "averaging": 0.0, "clip": 1e3}
"""A rate at which meta-training does harm."""


def trained(**settings):
    given = {"outer_steps": 30, "validate": 6, "task_settings": {"hidden": [8]}, **settings}
    config = FewShotConfig(**{"train": {**BAD, "validate_every": 1}, **given})
    trainer = make_trainer("maml", config, CPU, None)
    trainer.train(progress=False)
    return config, trainer


def test_the_best_weights_are_kept():
    config, trainer = trained()
    kept, last = trainer.kept, trainer.average
    assert trainer.validate(kept) == trainer.best_value < trainer.validate(last)
    found = take("maml", trainer, config)
    for key, value in kept.initialization().items():
        assert torch.equal(found.phi[key], value)
    assert found.facts["validation"] == {"episodes": 6, "error": trainer.best_value}


def test_validation_is_the_error_after_the_rows_steps_on_curves_of_its_own():
    config, trainer = trained(outer_steps=1)
    row, task = trainer.validate.row, trainer.validate.task
    phi = {key: value.detach() for key, value in trainer.kept.initialization().items()}
    given = {"steps": (row.test_steps,), "episodes": 6, "lr": row.inner_lr}
    found = evaluate(trainer.rule, phi, task, seed=derive_seed(0, "validation"), **given)
    assert trainer.best_value == pytest.approx(found.mean(row.test_steps), rel=1e-6)
    tested = evaluate(trainer.rule, phi, task, seed=derive_seed(0, "test"), **given)
    assert trainer.best_value != pytest.approx(tested.mean(row.test_steps), rel=1e-3)


def test_characters_are_those_of_the_validation_alphabets(monkeypatch):
    take_made_up(monkeypatch)
    config = FewShotConfig(
        data="omniglot", ways=3, queries=1, test_queries=2, validate=4, outer_steps=2
    )
    trainer = make_trainer("prototypical", config, CPU, None)
    assert trainer.validate.task.task.split == "validation"
    assert train.test_task(trainer.validate.row, config).task.split == "test"
    trainer.train(progress=False)
    assert 0 <= trainer.best_value <= 1


def test_patience_ends_training():
    _, trainer = trained(train={**BAD, "validate_every": 1, "patience": 2}, outer_steps=200)
    assert trainer.outer_step < 200


def test_a_validated_row_resumes(tmp_path):
    given = [*TINY, *SMALL_SINE, "--validate", "5", "--outer_steps", "6"]
    often = ["--train", '{"runs": 3, "schedule": "constant", "validate_every": 2}']
    unbroken, broken = tmp_path / "a", tmp_path / "b"
    assert main([*given, *often, "--out", str(unbroken)]) == 0
    assert main([*given, *often, "--outer_steps", "4", "--out", str(broken)]) == 0
    assert main([*given, *often, "--out", str(broken), "--resume", "true"]) == 0
    facts = [rows_of(out)["maml"] for out in (unbroken, broken)]
    assert facts[0]["results"] == facts[1]["results"]
    assert facts[0]["validation"] == facts[1]["validation"]
    assert facts[0]["validation"]["episodes"] == 5
    files = [load_initialization(out / "initialization.safetensors") for out in (unbroken, broken)]
    for key, value in files[0].parameters.items():
        assert torch.equal(value, files[1].parameters[key])
