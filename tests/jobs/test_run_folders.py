"""One job at a time uses a run folder; a refused job leaves no folder."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from meta_train.jobs.cli import main
from meta_train.jobs.run_folders import claim_folder, locked

SMALL = {
    "main": [
        *("--task", "quadratic", "--rule_settings", '{"hidden_size": 3}', "--device", "cpu"),
        *("--train.outer_steps", "3", "--train.runs", "2", "--train.horizons", "[2]"),
        *("--evaluate.steps", "2", "--evaluate.seeds", "1", "--evaluate.workers", "1"),
        *("--progress", "false"),
    ],
    "few-shot": [
        *("few-shot", "--outer_steps", "3", "--episodes", "3", "--device", "cpu"),
        *("--progress", "false"),
    ],
}

HOLDS_A_LOCK = """
import sys, time
from pathlib import Path
from meta_train.jobs.run_folders import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_job(tmp_path):
    """Another process that uses the folder `run`."""
    command = [sys.executable, "-c", HOLDS_A_LOCK, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_one_of_many_that_start_at_once_gets_the_folder(tmp_path):
    folder = tmp_path / "deep" / "run"

    def use(_):
        try:
            with locked(folder):
                time.sleep(0.5)
                return True
        except FileExistsError as error:
            assert str(error).startswith(f"another job is using {folder}: choose another --out")
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(use, range(8))) == 1
    # It was created for nothing. It stays, empty, where one job made it and another got it first.
    assert not folder.exists() or os.listdir(folder) == []
    with locked(folder):
        (folder / "file").touch()
    assert os.listdir(folder) == ["file"]


@pytest.mark.parametrize("command", ["main", "few-shot"])
def test_a_folder_in_use_is_refused_and_free_after_a_kill(command, other_job, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert main([*SMALL[command], *out]) == 2
    error = capsys.readouterr().err.strip()
    assert f"another job is using {tmp_path / 'run'}: choose another --out" in error
    assert len(error.splitlines()) == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    other_job.kill()
    other_job.wait()
    assert main([*SMALL[command], *out]) == 0
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize("command", ["main", "few-shot"])
def test_resume_of_nothing_leaves_no_folder(command, tmp_path, capsys):
    out = tmp_path / "deep" / "run"
    assert main([*SMALL[command], "--out", str(out), "--resume", "true"]) == 2
    assert "without --resume" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_refused_job_leaves_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    unknown = '{"rule_settings": {"x": 1}, "rule": "adam-lstm"}'
    assert main(["few-shot", "--row_settings", unknown]) == 2
    assert "'x'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_new_folders_have_names_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: claim_folder("job"), range(20)))) == 20
