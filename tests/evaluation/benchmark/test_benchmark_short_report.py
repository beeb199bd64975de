"""What is printed at the end of a benchmark, and the notes that stand below tables."""

import dataclasses

import pytest

from meta_train.evaluation.benchmark.contestants.registry import CONTESTANTS, learned
from meta_train.evaluation.benchmark.games import GAMES, Played
from meta_train.evaluation.benchmark.plan import Entry, Plan
from meta_train.evaluation.benchmark.records import Failed, Records, run_key
from meta_train.evaluation.benchmark.reports.full_report import render
from meta_train.evaluation.benchmark.reports.notes import notes
from meta_train.evaluation.benchmark.reports.short_report import render_short
from meta_train.evaluation.benchmark.tasks import TASKS
from meta_train.evaluation.benchmark.training import Trained

OWN = learned("orthogonal-momentum")
NAME = "my_package.my_optimizers:build_heavy_ball"
LONG = dataclasses.replace(OWN, name=NAME, title=NAME)
NOTE = "Best step size at an end of those tried, so that a better one may lie beyond: "


def trained(*losses, diverged=False):
    return Trained(losses, 0.1, 1.0, 0.5, 8.0, 100, diverged)


def tuned_at(path, name, place, trials=14, task="logistic"):
    """A plan and records in which this place of the settings to try is the best."""
    contestant = CONTESTANTS[name]
    plan = Plan([TASKS[task]], [], [contestant], 1, trials, False)
    records = Records(path, {})
    for k, key in enumerate(plan.trial_keys(TASKS[task], contestant)):
        records.add(key, trained(3.0, 0.5 if k == place else 0.9))
    return plan, records


@pytest.mark.parametrize(
    ("name", "place", "said"),
    [
        ("prodigy", 12, "prodigy on logistic (d_coef 0.1, the smallest)"),
        ("prodigy", 13, "prodigy on logistic (d_coef 14.7, the largest)"),
        ("adamw-cosine", 12, "adamw-cosine on logistic (lr 0.0001, the smallest)"),
        ("muon", 5, "muon on logistic (lr 0.16, the largest)"),
        ("muon", 13, "muon on logistic (lr 0.0025, the smallest)"),
    ],
)
def test_a_tuned_setting_at_an_end_of_its_grid_is_noted(tmp_path, name, place, said):
    plan, records = tuned_at(tmp_path / "record.json", name, place)
    assert notes(plan, records) == [f"{NOTE}{said}."]
    assert said in render(plan, records)
    assert said in " ".join(render_short(plan, records).split())


@pytest.mark.parametrize(
    ("name", "place", "trials"),
    [("prodigy", 0, 14), ("muon", 0, 14), ("opt-list", 0, 14), ("adamw", 1, 2)],
)
def test_settings_with_others_on_both_sides_are_not_noted(tmp_path, name, place, trials):
    """Nor those of a list, nor the better of two."""
    assert notes(*tuned_at(tmp_path / "record.json", name, place, trials)) == []


def test_a_failed_run_is_noted_and_a_failed_trial_is_not(tmp_path):
    plan, records = tuned_at(tmp_path / "record.json", "adamw-cosine", 0)
    records.add(run_key("logistic", "adamw-cosine", {"lr": 1e-3}, 0), Failed("RuntimeError: no"))
    records.add(run_key("logistic", "adamw-cosine", {"lr": 9.0}, 1000), Failed("KeyError: it"))
    assert notes(plan, records) == ["logistic, adamw-cosine, seed 0 failed: RuntimeError: no"]


def test_what_is_printed_fits_80_columns_and_says_the_losses_that_matter(tmp_path):
    names, games = ("logistic", "implicit-image"), list(GAMES.values())
    contestants = [OWN, LONG, *CONTESTANTS.values()]
    plan = Plan([TASKS[name] for name in names], games, contestants, 2, 3, False)
    records = Records(tmp_path / "record.json", {})
    for name in names:
        for contestant in CONTESTANTS.values():
            for k, key in enumerate(plan.trial_keys(TASKS[name], contestant)):
                records.add(key, trained(3.0, (0.5, 0.9, 0.7)[k]))
        for entry in plan.entries():
            for key in plan.scored(entry, TASKS[name], records):
                records.add(key, trained(3.0, 1.0))
    for seed, loss in ((0, 0.5), (1, 0.125)):  # geometric mean 0.25
        records.add(run_key("logistic", "orthogonal-momentum", {"lr": 1.0}, seed), trained(3, loss))
    best = plan.scored(Entry(CONTESTANTS["schedule-free"], True), TASKS["implicit-image"], records)
    for key in best:
        records.add(key, trained(3.0, 1.23e-06))
    diverged = run_key("implicit-image", "orthogonal-momentum", {"lr": 1.0}, 0)
    records.add(diverged, trained(3.0, diverged=True))
    for contestant in contestants:
        for key in plan.game_keys(contestant):
            records.add(key, Played(123.456, key.seed == 0))
    text = render_short(plan, records)
    lines = text.splitlines()
    assert max(map(len, lines)) == 80
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert ["logistic", "0.25", "1", "0.25", "orthogonal-momentum"] in cells
    assert ["implicit-image", "diverged", "1", "1.23e-06", "schedule-free, tuned"] in cells
    # -0.7, the limit, on one task and 0 on the other; a tie is no win.
    (row,) = [row for row in cells if row[0] == "Schedule-Free AdamW, tuned"]
    assert row[1:3] == ["1 of 2", "-0.350"]
    assert ["AdamW, cosine, tuned", "0 of 2", "+0.000", "1.00", "0"] in cells
    assert ["my_package.my_optimizers:build_h…", "0 of 2", "+0.000", "1.00", "0"] in cells
    for title in ("Muon", "my_package.my_optimizers:buil…"):
        assert [title, "123, works in 1 of 2", "123, works in 1 of 2"] in cells


def test_nothing_is_said_of_what_was_not_run(tmp_path):
    plan = Plan([TASKS["logistic"]], [], [OWN], 2, 3, False)
    assert render_short(plan, Records(tmp_path / "record.json", {})) == "\n"
    records = Records(tmp_path / "record.json", {})
    records.add(run_key("logistic", "orthogonal-momentum", {"lr": 1.0}, 0), trained(3.0, 0.5))
    text = render_short(plan, records)
    assert "| logistic | 0.5 |     - |    0.5 | orthogonal-momentum |" in text
    assert "wins" not in text
