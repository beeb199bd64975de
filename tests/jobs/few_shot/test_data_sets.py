"""The few-shot job on signals and on miniImageNet."""

import csv
import json

import pytest
from few_shot_cases import results_of
from PIL import Image

from meta_train.few_shot.methods.registry import METHODS
from meta_train.jobs.cli import main

QUICK = ["few-shot", "--progress", "false", "--device", "cpu", "--outer_steps", "1"]


def mini_imagenet(folder, per_class=3):
    """A small set in the official layout; each class has a colour of its own."""
    (folder / "images").mkdir(parents=True)
    first = 0
    for name, classes in (("train", 64), ("val", 16), ("test", 20)):
        rows = [
            (f"n{c:08d}{k:08d}.jpg", f"n{c:08d}")
            for c in range(first, first + classes)
            for k in range(per_class)
        ]
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("filename", "label"), *rows])
        for file, label in rows:
            colour = (int(label[1:]) * 2, int(file[9:17]) * 9, (int(label[1:]) * 37) % 256)
            Image.new("RGB", (84, 84), colour).save(folder / "images" / file, "JPEG")
        first += classes
    return folder


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return mini_imagenet(tmp_path / "data")


def test_every_method_works_on_signals(tmp_path, capsys):
    given = [*QUICK, "--data", "signals", "--row", "all", "--ways", "3", "--queries", "1"]
    given += ["--test_queries", "2", "--episodes", "2", "--steps", "[2]"]
    given += ["--task_settings", '{"hidden": 2}', "--train", '{"runs": 2, "gates_every": 0}']
    given += ["--row_settings", '{"train_shots": null, "instances": 3}']
    assert main([*given, "--out", str(tmp_path / "run")]) == 0
    found = results_of(tmp_path / "run")
    assert list(found) == list(METHODS)
    assert all(0 <= one["results"][-1]["mean"] <= 1 for one in found.values())
    assert not any(one["published"] or one["published_by_instance"] for one in found.values())
    assert "Signals, 3-way 1-shot\n" in capsys.readouterr().out


def test_prototypical_networks_learn_signals_in_seconds(tmp_path):
    given = [*QUICK, "--data", "signals", "--row", "prototypical", "--outer_steps", "60"]
    given += ["--task_settings", '{"hidden": 16}', "--train", '{"runs": 8, "lr": 0.01}']
    assert main([*given, "--episodes", "60", "--out", str(tmp_path / "run")]) == 0
    (result,) = results_of(tmp_path / "run")["prototypical"]["results"]
    assert 0.4 < result["mean"] < 0.8


def test_methods_train_and_resume_on_mini_imagenet(tmp_path, photographs, capsys):
    given = [*QUICK, "--data", "miniimagenet", "--folder", str(photographs), "--queries", "1"]
    given += ["--row", "maml,prototypical,relation", "--test_queries", "2", "--episodes", "2"]
    train = {"runs": 1, "checkpoint_every": 1, "schedule": "constant"}
    given += ["--task_settings", '{"hidden": 4}', "--train", json.dumps(train)]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*given, "--outer_steps", "2", "--validate", "2", "--out", str(whole)]) == 0
    printed = capsys.readouterr().out
    assert "miniImageNet, 5-way 1-shot\n" in printed
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line.strip()}
    assert [rows[name][-1] for name in ("maml", "prototypical", "relation")] == [
        "48.7+-1.84",
        "49.42+-0.78",
        "50.44+-0.82",
    ]
    assert main([*given, "--validate", "2", "--out", str(broken)]) == 0
    again = [*given, "--outer_steps", "2", "--validate", "2", "--out", str(broken)]
    assert main([*again, "--resume", "true"]) == 0
    first, second = results_of(whole), results_of(broken)
    assert all(first[name]["results"] == second[name]["results"] for name in first)
    maml = first["maml"]
    assert maml["inner_steps"] == {"training": [5], "testing": 10} and maml["inner_lr"] == 0.01
    assert maml["adapted_parameters"] == 3 * 36 + 4 + 3 * (4 * 36 + 4) + 4 * 8 + 5 * (4 * 25 + 1)


def test_files_that_are_not_there_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("LEARNED_OPT_DATA", raising=False)
    given = [*QUICK, "--data", "miniimagenet", "--out", str(tmp_path / "run")]
    for more, message in (
        ([], "miniImageNet is read from files: give folder, or set LEARNED_OPT_DATA"),
        (["--folder", str(tmp_path)], f"there is no test.csv in {tmp_path}; it is published at"),
        (["--folder", str(tmp_path), "--download", "true"], "miniImageNet cannot be downloaded"),
    ):
        assert main([*given, *more]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1
        assert not (tmp_path / "run").exists()


def test_published_figures_stand_beside_a_single_method(tmp_path, photographs, capsys):
    given = [*QUICK, "--data", "miniimagenet", "--folder", str(photographs), "--queries", "1"]
    given += ["--row", "matching", "--test_queries", "2", "--episodes", "2"]
    given += ["--task_settings", '{"hidden": 2}', "--train", '{"runs": 1}']
    assert main([*given, "--out", str(tmp_path / "run")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["published", "accuracy:", "43.4+-0.78"] in lines
    facts = json.loads((tmp_path / "run" / "table.json").read_text())["rows"]["matching"]
    assert facts["published"] == [43.4, 0.78]
