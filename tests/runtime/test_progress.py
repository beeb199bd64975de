"""A program without a console has neither stdout nor stderr: `sys.stderr` is None."""

import sys

import pytest
import torch
from few_shot_cases import SMALL_SINE, TINY

from learned_opt import create_rule
from meta_train.jobs.cli import main
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.progress import progress_bar, say
from meta_train.tasks import create_task


@pytest.fixture
def no_console(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)


def test_a_trainer_shows_nothing_and_trains(no_console):
    torch.manual_seed(0)
    settings = TrainSettings(outer_steps=2, runs=2, horizons=(2,), truncation_length=2)
    task = create_task("quadratic", dimensions=3)
    trainer = MetaTrainer(create_rule("adam-lstm"), task, settings, device="cpu")
    trainer.train()
    assert trainer.outer_step == 2


def test_jobs_show_nothing_and_write_their_results(no_console, tmp_path):
    given = ["--task", "quadratic", "--rule", "adam-lstm", "--train.runs", "1", "--train.horizons"]
    given += ["[2]", "--train.truncation_length", "2", "--train.outer_steps", "1"]
    given += ["--evaluate.steps", "2", "--evaluate.seeds", "1", "--evaluate.workers", "1"]
    assert main([*given, "--device", "cpu", "--out", str(tmp_path / "a")]) == 0
    assert (tmp_path / "a" / "table.json").exists()
    few = [*TINY, *SMALL_SINE, "--progress", "true", "--out", str(tmp_path / "b")]
    assert main(few) == 0
    assert (tmp_path / "b" / "table.json").exists()


def test_an_error_of_the_command_line_is_still_its_exit_status(no_console):
    with pytest.raises(SystemExit) as stop:
        main(["--threads", "0"])
    assert stop.value.code == 2


def test_with_a_console_bar_and_lines_are_shown(capsys):
    with progress_bar(3, "step", show=True, desc="training") as bar:
        bar.update(3)
        say("a line")
    with progress_bar(3, "step", show=False, desc="hidden") as bar:
        bar.update(3)
    shown = capsys.readouterr()
    assert shown.out == "a line\n"
    assert "training: 100%" in shown.err and "3/3" in shown.err and "hidden" not in shown.err
