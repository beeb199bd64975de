"""A program without a console has neither stdout nor stderr: `sys.stderr` is None."""

import os
import signal
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


class DiesOfWriting:
    """A stream whose process is killed while it writes, and holds the lock of the bars."""

    def write(self, text):
        os.kill(os.getpid(), signal.SIGKILL)

    def flush(self):
        pass


def test_a_process_killed_while_it_writes_stops_no_other_one(tmp_path):
    def fork(stdout):
        child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)  # instead of waiting forever
            sys.stdout = stdout
            say("a line")
            stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        return status

    say("the bars are imported before the processes begin")
    assert os.WTERMSIG(fork(DiesOfWriting())) == signal.SIGKILL
    with open(tmp_path / "stdout", "w") as stdout:
        assert fork(stdout) == 0, "the lock of the killed process was never freed"
    assert (tmp_path / "stdout").read_text() == "a line\n"
