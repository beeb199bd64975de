"""`~` is the home folder in every path, as in `--out=~/run`, which no shell expands."""

import pytest
import torch

from learned_opt import create_rule
from meta_train.few_shot.settings import FewShotConfig
from meta_train.jobs.cli import main
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import create_task

SMALL = [
    *("--task", "quadratic", "--rule", "adam-lstm", "--rule_settings", '{"hidden_size": 2}'),
    *("--train.runs", "1", "--train.horizons", "[2]", "--train.truncation_length", "2"),
    *("--train.gates_every", "0", "--evaluate.steps", "2", "--evaluate.seeds", "1"),
    *("--evaluate.workers", "1", "--device", "cpu", "--progress", "false"),
]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home folder, and an empty working directory."""
    folder, work = tmp_path / "home", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.chdir(work)
    yield folder
    assert not list(work.iterdir())  # no folder that is called ~


def test_of_a_meta_trainer(home):
    torch.manual_seed(0)
    settings = TrainSettings(outer_steps=1, runs=1, horizons=(2,), truncation_length=2)
    task = create_task("quadratic", dimensions=3)
    trainer = MetaTrainer(create_rule("adam-lstm"), task, settings, folder="~/run", device="cpu")
    trainer.train(progress=False)
    assert {path.name for path in (home / "run").iterdir()} == {"checkpoints", "tensorboard"}
    again = MetaTrainer(create_rule("adam-lstm"), task, settings, folder="~/run", device="cpu")
    assert again.resume() and again.outer_step == 1


def test_of_the_command_line_its_configuration_and_a_resumed_run(home, capsys):
    assert main([*SMALL, "--train.outer_steps=1", "--out=~/run"]) == 0
    assert (home / "run" / "weights.safetensors").exists()
    assert main(["--out=~/run", "--resume", "--train.outer_steps=2"]) == 0
    assert "step-00000002.safetensors" in {p.name for p in (home / "run/checkpoints").iterdir()}
    assert main(["--config=~/run/config.yaml", "--out=~/other", "--progress=false"]) == 0
    assert (home / "other" / "table.json").exists()


def test_of_a_few_shot_job(home):
    config = FewShotConfig(out="~/run", begin="~/start.safetensors", folder="~/data")
    assert config.out == home / "run"
    assert config.begin == home / "start.safetensors"
    assert config.folder == home / "data"
