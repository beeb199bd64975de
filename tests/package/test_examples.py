"""The examples run as they are."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(tmp_path, name, *arguments):
    result = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_quickstart_beats_adamw_without_a_learning_rate(tmp_path):
    lines = run(tmp_path, "quickstart.py", "--steps", "200").splitlines()
    small, large, default, learned = (float(line.split()[-1]) for line in lines[1:])
    assert default < large < small
    assert learned < large


def test_custom_task_meta_trains_saves_and_compares_a_rule(tmp_path):
    out = run(tmp_path, "custom_task.py", "--outer-steps", "3", "--out", "mine")
    rows = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("|")]
    assert rows[2:] == ["learned", "Adam", "RMSprop", "SGD + momentum", "Adam, decayed"]
    assert (tmp_path / "mine" / "weights.safetensors").is_file()


def test_few_shot_learns_a_start_that_beats_a_random_one(tmp_path):
    lines = run(tmp_path, "few_shot.py").splitlines()
    random, learned = (float(line.split()[2].rstrip("%")) for line in lines)
    assert learned > random + 10
    assert (tmp_path / "start.safetensors").is_file()


def test_new_characters_are_learned_from_one_drawing_of_each(tmp_path):
    lines = run(tmp_path, "new_characters.py").splitlines()
    before, after = (int(line.split()[1].rstrip("%")) for line in lines)
    assert after >= 90 > 60 > before
    assert (tmp_path / "new_characters.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_gates_draws_its_figure(tmp_path):
    run(tmp_path, "gates.py", "--out", "gates.png", "--steps", "20", "--log-dir", "log")
    assert (tmp_path / "gates.png").read_bytes().startswith(b"\x89PNG")
    assert any((tmp_path / "log").iterdir())


@pytest.mark.parametrize("name", ["quickstart.py", "custom_task.py", "few_shot.py"])
def test_short_examples_stay_short(name):
    assert len((EXAMPLES / name).read_text().splitlines()) <= 50
