"""`python -m meta_train explain`: pages, numbers and sentences; bad input is one line."""

import json
import os
import subprocess
import sys

import pytest
import torch
from full_disk import full_disk

from learned_opt import create_rule, save_rule
from learned_opt.explanation import Explanation
from learned_opt.explanation.explain import find
from learned_opt.explanation.measurements import measured
from meta_train.jobs import cli, explain


@pytest.fixture(autouse=True)
def one_training(monkeypatch):
    """Layers are compared in one training, which takes less time."""
    monkeypatch.setattr(measured, "COMPARED_TRAININGS", ("narrow",))


def test_pages_numbers_and_sentences_are_written(tmp_path, capsys):
    save_rule(create_rule("gated-lstm", hidden_size=2), tmp_path / "mine.safetensors")
    out = tmp_path / "pages"
    arguments = ["explain", "sgd", str(tmp_path / "mine.safetensors"), "--compare", "momentum"]
    assert cli.main([*arguments, "--out", str(out)]) == 0
    assert cli.main(["explain", "sgd", "--compare", "--out", str(out)]) == 0  # in their place
    names = ["mine", "mine.json", "mine.png", "sgd", "sgd.json", "sgd.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert [len(list((out / name).iterdir())) for name in ("mine", "sgd")] == [1, 1]
    assert (out / "mine.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((out / "mine.json").read_text())
    assert list(numbers["compared"]) == ["momentum"]
    assert json.loads((out / "sgd.json").read_text())["compared"] == {}
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= max(80, len(f"written to {out}"))
    words = " ".join(printed.split())
    for sentence in numbers["sentences"].values():
        assert sentence in words


def test_the_weights_of_runs_have_the_names_of_their_folders(tmp_path, monkeypatch, capsys):
    """Every run calls its weights "weights.safetensors"; a run folder may be given, too."""
    monkeypatch.chdir(tmp_path)
    for seed, run in enumerate(("r1", "r2")):
        torch.manual_seed(seed)
        (tmp_path / run).mkdir()
        save_rule(create_rule("gated-lstm", hidden_size=2), f"{run}/weights.safetensors")
    explained = []

    def note(name, *, compare, seed):
        own, others = find(name, seed), [find(other, seed)[0] for other in compare]
        explained.append((own[0], others))
        raise KeyboardInterrupt

    monkeypatch.setattr(explain, "explain", note)
    given = ["r1/weights.safetensors", "r2/weights.safetensors", "--compare", "r2", "adam"]
    assert cli.main(["explain", *given]) == 130
    assert cli.main(["explain", "r1", "r2", "--compare"]) == 130
    monkeypatch.chdir(tmp_path / "r2")
    assert cli.main(["explain", "weights.safetensors", "--compare", "."]) == 130
    assert explained == [("r1", ["r2", "adam"]), ("r1", []), ("r2", ["r2"])]


def test_files_have_the_names_of_run_folders(tmp_path):
    torch.manual_seed(0)
    save_rule(create_rule("gated-lstm", hidden_size=2), tmp_path / "weights.safetensors")
    out = tmp_path / "pages"
    assert cli.main(["explain", str(tmp_path), "--compare", "--out", str(out)]) == 0
    name = tmp_path.name
    assert sorted(path.name for path in out.iterdir()) == [name, f"{name}.json", f"{name}.png"]
    assert json.loads((out / f"{name}.json").read_text())["name"] == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: NAME_OR_PATH"),
        (["digitslstm"], "unknown rule 'digitslstm'; did you mean 'digits-lstm'?"),
        (["sgd", "--compare", "adma"], "unknown rule 'adma'; did you mean 'adam'?"),
        (["nowhere/mine.safetensors"], "there is no weights file nowhere/mine.safetensors"),
        (["damaged.safetensors"], "damaged.safetensors is damaged or not a safetensors file"),
        (["sgd", "adam", "sgd"], "sgd: two of the optimizers would be written as sgd.png"),
        (["sgd", "--seed", "-1"], "--seed must be from 0 to 2**63 - 1, got -1"),
        (["sgd", "--seed", "1" + "0" * 19], "--seed must be from 0 to 2**63 - 1, got 1000"),
        (["sgd", "--sed", "1"], "--sed"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0no json")
    with pytest.raises(SystemExit) as end:
        cli.main(["explain", *arguments])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m meta_train explain: error: ")
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.safetensors"]


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["explain", "sgd", "--out", str(tmp_path / "file")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m meta_train explain: error: ")


def test_a_full_disk_leaves_the_events_that_were_there(tmp_path, capsys):
    events = tmp_path / "sgd" / "events.out.tfevents.1.host.1.0"
    events.parent.mkdir()
    events.write_bytes(b"earlier")
    with full_disk(), pytest.warns(UserWarning, match=f"could not write to {events.parent}"):
        assert cli.main(["explain", "sgd", "--compare", "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "could not write" in line and "sgd.png" in line
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [events]
    assert events.read_bytes() == b"earlier"


def test_without_matplotlib_a_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["explain", "sgd", "--out", str(tmp_path / "new")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "matplotlib, which is not installed: python -m pip install" in line
    assert not (tmp_path / "new").exists()


def test_an_interrupted_page_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Explanation, "save", interrupt)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["explain", "sgd", "--compare"]) == 130
    assert "stopped" in capsys.readouterr().err
    assert list(tmp_path.rglob("*.png")) == list(tmp_path.rglob(".*")) == []

    monkeypatch.setattr(explain, "explain", interrupt)
    assert cli.main(["explain", "sgd", "--out", str(tmp_path / "new")]) == 130
    assert not (tmp_path / "new").exists()


def test_torch_has_one_thread_while_it_measures_and_its_own_afterwards(monkeypatch, tmp_path):
    seen = []

    def measure(*_, **__):
        seen.append(torch.get_num_threads())
        raise ValueError("enough")

    monkeypatch.setattr("meta_train.jobs.explain.explain", measure)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert cli.main(["explain", "sgd", "--out", str(tmp_path / "x")]) == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


def test_a_log_that_cannot_hold_a_character_gets_another_one():
    """As on Windows, where a file gets the console's encoding."""
    code = (
        "import runpy; import meta_train.jobs.cli as cli; cli.main = lambda: print('|\u03bb|'); "
        "runpy.run_module('meta_train', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONIOENCODING": "ascii",
        },
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "|?|\n", "")
