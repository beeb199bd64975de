"""Every method trains from the command line, is tested, and resumes as if unbroken."""

import json

import pytest
import torch
from few_shot_cases import take_made_up

from learned_opt.adaptation import load_initialization
from meta_train.few_shot.methods.registry import METHODS
from meta_train.jobs.cli import main


@pytest.mark.parametrize("name", METHODS)
def test_every_resumed_method_equals_the_unbroken_one(name, tmp_path, monkeypatch, capsys):
    take_made_up(monkeypatch)
    sine = (
        METHODS[name].sine is not None and not METHODS[name].published
    )  # Half of the methods on each data set.
    given = ["few-shot", "--row", name, "--episodes", "4", "--progress", "false", "--device", "cpu"]
    train = {"runs": 2, "schedule": "constant", "checkpoint_every": 1, "gates_every": 1}
    given += ["--train", json.dumps(train)]
    if sine:
        given += ["--task_settings", '{"hidden": [4]}', "--steps", "[0, 2]"]
    else:
        given += ["--data", "omniglot", "--ways", "3", "--queries", "1", "--test_queries", "2"]
        given += ["--task_settings", '{"hidden": 4}', "--steps", "[2]"]
        if METHODS[name].omniglot.train_shots is not None:  # Eight made-up images per class.
            given += ["--row_settings", '{"train_shots": 2}']
        if METHODS[name].omniglot.reader is not None:
            given += ["--row_settings", '{"instances": 3, "meta_batch": 2}', "--validate", "2"]
    if METHODS[name].omniglot.begins_with is not None:
        base = [*given, "--row", METHODS[name].omniglot.begins_with, "--outer_steps", "1"]
        assert main([*base, "--out", str(tmp_path / "base")]) == 0
        given += ["--begin", str(tmp_path / "base" / "initialization.safetensors")]
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert main([*given, "--outer_steps", "2", "--out", str(unbroken)]) == 0
    assert main([*given, "--outer_steps", "1", "--out", str(broken)]) == 0
    resumed = [*given, "--outer_steps", "2", "--out", str(broken), "--resume", "true"]
    assert main(resumed) == 0, capsys.readouterr().err
    results = [json.loads((out / "table.json").read_text()) for out in (unbroken, broken)]
    assert results[0]["rows"][name]["results"] == results[1]["rows"][name]["results"]
    files = [load_initialization(out / "initialization.safetensors") for out in (unbroken, broken)]
    for key, value in files[0].parameters.items():
        assert torch.equal(value, files[1].parameters[key])
        assert value.isfinite().all()
