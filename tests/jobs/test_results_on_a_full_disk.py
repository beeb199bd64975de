"""Weights are written before tables, and those before pictures: a full disk costs the least."""

import json

from few_shot_cases import SMALL_SINE, TINY, results_of
from full_disk import full_disk

from learned_opt import load_card, load_initialization, load_rule
from meta_train.evaluation.comparison import report
from meta_train.jobs.cli import main
from meta_train.jobs.few_shot import job

SMALL = [
    *("--task", "quadratic", "--rule", "adam-lstm", "--rule_settings", '{"hidden_size": 2}'),
    *("--train.runs", "1", "--train.horizons", "[2]", "--train.truncation_length", "2"),
    *("--train.outer_steps", "2", "--train.gates_every", "0", "--evaluate.steps", "2"),
    *("--evaluate.seeds", "1", "--evaluate.workers", "1", "--device", "cpu"),
    *("--progress", "false"),
]


def from_here_on_full(call):
    """The same function, on a disk that takes nothing any more."""

    def called(*arguments, **named):
        with full_disk():
            return call(*arguments, **named)

    return called


def test_weights_and_table_are_there_if_the_curves_find_no_room(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "draw_curves", from_here_on_full(report.draw_curves))
    assert main([*SMALL, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"python -m meta_train: error: [Errno 27] could not write {tmp_path}/curves.png: File too "
        "large\n"
    )
    columns = json.loads((tmp_path / "table.json").read_text())["columns"]
    assert load_card(tmp_path / "weights.safetensors")["columns"] == columns
    assert load_rule(tmp_path / "weights.safetensors").settings["hidden_size"] == 2
    assert not (tmp_path / "curves.png").exists()


def test_weights_are_there_if_nothing_after_training_finds_room(tmp_path, capsys, monkeypatch):
    # The comparison itself writes nothing; the first thing after it is the table.
    monkeypatch.setattr(report, "write_table", from_here_on_full(report.write_table))
    assert main([*SMALL, "--out", str(tmp_path)]) == 2
    assert "could not write" in capsys.readouterr().err
    assert load_card(tmp_path / "weights.safetensors")["meta_training"]["outer_steps"] == 2
    assert not (tmp_path / "table.json").exists()


def test_a_few_shot_job_keeps_its_initialisation_and_table_without_the_picture(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(job, "draw_sine", from_here_on_full(job.draw_sine))
    assert main([*TINY, *SMALL_SINE, "--row", "maml", "--out", str(tmp_path)]) == 2
    assert f"could not write {tmp_path}/sine.png: File too large" in capsys.readouterr().err
    assert list(results_of(tmp_path)) == ["maml"]
    assert load_initialization(tmp_path / "initialization.safetensors").parameters
    assert not (tmp_path / "sine.png").exists()
