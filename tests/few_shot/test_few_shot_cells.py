"""Cells of the table of trained methods: which are shown, and side by side by seed."""

import importlib
import json
from pathlib import Path

import pytest
from few_shot_cases import take_made_up

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def program(monkeypatch):
    """The program that trains the cells."""
    monkeypatch.syspath_prepend(BENCHMARKS / "few_shot")
    return importlib.import_module("few_shot")


def cell(**facts):
    curve = [[100 * k, 0.90] for k in range(1, 10)]
    return {"row": "maml", "minutes": 5.0, "seed": 0, "validation": curve} | facts


def curve(*accuracies):
    """Validation after 100, 200, ... outer steps."""
    return [[100 * k, accuracy] for k, accuracy in enumerate(accuracies, 1)]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, None),
        # The last third is what follows step 600 of 900.
        ({"validation": curve(0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 0.9, 0.9, 0.9)}, None),
        ({"validation": curve(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.604, 0.605, 0.607)}, None),
        (
            {"validation": curve(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.62, 0.61)},
            "still rose by 2.0 points on validation in the last third of training",
        ),
        (
            {"validation": curve(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.62, 0.61), "minutes": 361},
            None,
        ),
        ({"validation": curve(0.4)}, "was not validated as it trained"),
        ({"validation": []}, "was not validated as it trained"),
        ({"validation": [], "minutes": 361}, "was not validated as it trained"),
    ],
)
def test_cells_that_stopped_too_early_are_left_out(program, facts, reason):
    found = program.reason_to_leave_out(cell(**facts))
    assert found is None if reason is None else found.startswith(reason)


def test_what_fell_at_the_end_did_not_rise(program):
    falling = cell(validation=curve(0.5, 0.6, 0.9, 0.9, 0.8, 0.7, 0.7, 0.6, 0.6))
    assert program.rise(falling) == pytest.approx(-20)
    assert program.reason_to_leave_out(falling) is None


@pytest.fixture
def run(program, monkeypatch, tmp_path):
    """Runs the program on made-up characters, for few outer steps."""
    take_made_up(monkeypatch)
    monkeypatch.setattr(program, "VALIDATE_EVERY", 1)
    monkeypatch.setattr(program, "VALIDATION_EPISODES", 3)
    monkeypatch.setattr(program, "MEASURED", tmp_path / "few_shot.json")
    monkeypatch.setattr(program, "DOCUMENT", tmp_path / "few_shot.md")
    names = ("methods", "trained", "training", "validation")
    blocks = [f"<!-- table: {name} -->\n<!-- end -->\n" for name in names]
    (tmp_path / "few_shot.md").write_text("".join(blocks))

    def run(*given):
        given = ["--rows", "prototypical", "--settings", "5x1", "--runs", str(tmp_path), *given]
        given += [
            "--outer_steps",
            "4",
            "--episodes",
            "5",
            "--test_queries",
            "2",
            "--folder",
            str(tmp_path),
        ]
        args = program.parse([*given, "--device", "cpu"])
        for name in args.rows:
            program.run_cell(name, "5x1", args)
        program.collect(args)
        return json.loads((tmp_path / "few_shot.json").read_text())["cells"]

    return run


def test_seeds_stand_side_by_side_and_a_cell_replaces_its_own(run, program, monkeypatch, tmp_path):
    monkeypatch.setattr("few_shot.LARGEST_RISE", 100.0)  # four steps are too few to stand still
    (first,) = run()
    assert (first["row"], first["seed"], first["outer_steps"]) == ("prototypical", 0, 4)
    both = run("--seed", "1")
    assert [one["seed"] for one in both] == [0, 1] and both[0] == first
    assert both[1]["validation"] != first["validation"]
    again = run("--seed", "1")
    assert again == both
    text = (tmp_path / "few_shot.md").read_text()
    rows = [[word.strip() for word in line.split("|")[1:-1]] for line in text.splitlines()]
    trained = [row[:3] for row in rows if row[:2] == ["prototypical", "5-way 1-shot"]]
    assert trained == 3 * [["prototypical", "5-way 1-shot", seed] for seed in "01"]


def test_methods_that_use_the_weights_of_another_have_its_validation(run, monkeypatch):
    monkeypatch.setattr("few_shot.LARGEST_RISE", 100.0)
    (found,) = run("--rows", "nearest-prototype")
    assert found["row"] == "nearest-prototype"
    assert [step for step, _ in found["validation"]] == [1, 2, 3, 4]
    rate, interval = found["equal_error"]
    assert 0 <= rate <= 1 and 0 <= interval <= 1


def test_seeds_begin_with_their_own_initialisation(run, tmp_path):
    run("--rows", "learned-gated-lstm", "--seed", "2")
    folder = tmp_path / "5x1-seed2"
    assert not (tmp_path / "5x1").exists()
    table = json.loads((folder / "learned-gated-lstm" / "table.json").read_text())
    assert table["config"]["begin"] == str(folder / "maml" / "initialization.safetensors")
    assert table["config"]["seed"] == 2
