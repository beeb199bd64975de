"""The command line: help, config files, one-line errors, resume, and a whole small job."""

import json
import subprocess
import sys

import pytest
import yaml

from learned_opt import create_rule, from_pretrained, list_rules, load_card
from meta_train.cli import build_parser, main
from meta_train.tasks import list_tasks

TINY = [
    "--task", "quadratic",
    "--rule_settings", '{"hidden_size": 3}',
    "--train.outer_steps", "4",
    "--train.runs", "2",
    "--train.horizons", "[4]",
    "--train.window", "2",
    "--train.checkpoint_every", "2",
    "--train.gates_every", "2",
    "--evaluate.steps", "5",
    "--evaluate.seeds", "2",
    "--evaluate.workers", "1",
    "--device", "cpu",
]  # fmt: skip


def test_the_job_leaves_everything_in_its_folder(tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*TINY, "--out", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        "config.yaml", "weights.safetensors", "table.json", "curves.png", "checkpoints",
        "tensorboard",
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "learned / best" in printed
    assert max(len(line) for line in printed.splitlines() if str(out) not in line) <= 100
    data = json.loads((out / "table.json").read_text())
    assert len(data["columns"]) == 2
    assert data["columns"]["long"]["steps"] == 50
    assert from_pretrained(out / "weights.safetensors").settings["hidden_size"] == 3
    assert load_card(out / "weights.safetensors")["task"] == "quadratic"


def test_the_recorded_config_repeats_the_run(tmp_path):
    assert main([*TINY, "--out", str(tmp_path / "a")]) == 0
    config = tmp_path / "a" / "config.yaml"
    assert yaml.safe_load(config.read_text())["train"]["outer_steps"] == 4
    assert main(["--config", str(config), "--out", str(tmp_path / "b")]) == 0
    first, second = (
        json.loads((tmp_path / name / "table.json").read_text())["columns"] for name in "ab"
    )
    assert first == second


def test_a_run_is_not_overwritten_but_resumed_if_asked(tmp_path, capsys):
    arguments = [*TINY, "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main([*arguments, "--resume", "true"]) == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--rule", "lstmm"], "did you mean 'lstm'"),
        (["--task", "digit-mlp"], "did you mean 'digits-mlp'"),
        (["--train.lr", "fast"], "train.lr"),
        (["--train.lr", "-1"], "lr must be positive, got -1"),
        (["--train.objective", "logg"], "did you mean 'log'"),
        (["--rule_settings", '{"hiden_size": 3}'], "did you mean 'hidden_size'"),
        (["--task_settings", '{"activation": "rellu"}'], "did you mean 'relu'"),
        (["--rule_settings", '{"hidden_size": "abc"}'], "hidden_size='abc'"),
        (["--task_settings", '{"hidden": 5}'], "hidden=5"),
        (["--evaluate.workers", "-1"], "workers must be at least 0, got -1"),
        (["--device", "gpu0"], "gpu0"),
        (["--outer", "3"], "--outer"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--resume", "true"], "resume needs out"),
    ],
)
def test_a_bad_value_gets_one_line_that_names_it(arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err.strip()
    assert status == 2
    assert named in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_the_job_runs_on_a_gpu(tmp_path):
    assert main([*TINY, "--device", "cuda", "--out", str(tmp_path / "run")]) == 0


def test_help_names_every_rule_that_can_be_trained_and_every_task():
    text = " ".join(build_parser().format_help().split())
    trainable = [name for name in list_rules() if list(create_rule(name).parameters())]
    assert all(name in text for name in [*trainable, *list_tasks()])


def test_help_documents_every_setting():
    result = subprocess.run(
        [sys.executable, "-m", "meta_train", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "80", "PATH": "/usr/bin:/bin"},
    )
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "--train.outer_steps" in result.stdout
    for setting in result.stdout.split("\n  --")[1:]:
        assert len(setting.split()) > 5, setting
