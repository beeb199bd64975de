"""Which runs are made, what is kept of them, and what the tables say."""

import json
import math
from pathlib import Path

import pytest

from meta_train.evaluation.benchmark.contestants.registry import CONTESTANTS, learned
from meta_train.evaluation.benchmark.games import GAMES, Played
from meta_train.evaluation.benchmark.plan import Entry, Plan
from meta_train.evaluation.benchmark.records import Failed, Records, run_key
from meta_train.evaluation.benchmark.reports.full_report import (
    pairs_table,
    plan_of,
    render,
    summary_table,
)
from meta_train.evaluation.benchmark.reports.picture import draw
from meta_train.evaluation.benchmark.reports.scores import (
    all_scores,
    geometric_mean,
    interquartile_mean,
    log_ratio,
    losses_below,
    score,
    sensitivities,
    summaries,
)
from meta_train.evaluation.benchmark.tasks import TASKS
from meta_train.evaluation.benchmark.training import Trained

OWN, REFERENCE = learned("orthogonal-momentum"), CONTESTANTS["adamw-cosine"]
NAMES = ("logistic", "quadratic")


def make_plan(contestants=(OWN, REFERENCE), *, seeds=2, trials=3, games=(), names=NAMES):
    return Plan([TASKS[n] for n in names], list(games), list(contestants), seeds, trials, False)


def trained(*losses, error=0.1, seconds=1.0, diverged=False):
    return Trained(losses, error, seconds, seconds / 2, 8.0, 100, diverged)


def filled(path, plan, own, reference):
    """Records in which the second setting is the best, with these curves by task."""
    records = Records(path, {"steps": plan.steps()})
    for task in plan.tasks:
        for k, key in enumerate(plan.trial_keys(task, REFERENCE)):
            records.add(key, trained(3.0, (0.9, 0.5, 0.7)[k]))
        for entry, curves in ((Entry(OWN, False), own), (Entry(REFERENCE, True), reference)):
            for key, result in zip(
                plan.scored(entry, task, records), curves[task.name], strict=True
            ):
                records.add(key, result)
    return records


def test_runs_come_in_the_order_in_which_they_are_wanted(tmp_path):
    plan = make_plan(games=[GAMES["cart-pole"]])
    records = Records(tmp_path / "record.json", {})
    keys = list(plan.wanted(records))
    assert [(k.task, k.optimizer, k.seed) for k in keys[:5]] == [
        ("logistic", "orthogonal-momentum", 0),
        ("quadratic", "orthogonal-momentum", 0),
        ("logistic", "orthogonal-momentum", 1),
        ("quadratic", "orthogonal-momentum", 1),
        ("logistic", "adamw-cosine", 1000),
    ]
    # Nothing tuned is scored before all its trials have ended.
    tuned = [k for k in keys if k.optimizer == "adamw-cosine" and k.task in NAMES]
    assert [k.seed for k in tuned] == [1000] * 6 + [0, 0, 1, 1]
    assert dict(tuned[-1].setting) == {"lr": 1e-3}
    assert sum(k.task == "cart-pole" for k in keys) == 4
    assert plan.count() == 4 + 4 + 4 + 6 + 4


def test_the_setting_with_the_lowest_loss_on_the_seed_for_tuning_is_scored(tmp_path):
    plan, records = make_plan(), Records(tmp_path / "record.json", {})
    task, entry = TASKS["logistic"], Entry(REFERENCE, True)
    keys = plan.trial_keys(task, REFERENCE)
    assert [dict(key.setting)["lr"] for key in keys] == pytest.approx([1.28e-2, 3.2e-3, 2.56e-2])
    records.add(keys[0], trained(3.0, 0.9))
    records.add(keys[1], trained(3.0, 0.5))
    assert plan.setting(entry, task, records) is None
    records.add(keys[2], trained(3.0, 0.1, diverged=True))
    assert plan.setting(entry, task, records) == pytest.approx({"lr": 3.2e-3})
    scored = plan.scored(entry, task, records)
    assert [(key.seed, key.told) for key in scored] == [(0, 1.0), (1, 1.0)]
    varied = plan.varied(entry, task, records)
    assert {what: (dict(key.setting)["lr"], key.told) for what, (key, _) in varied.items()} == {
        "step size x 0.33": (pytest.approx(3.2e-3 / 3, rel=1e-5), 1.0),
        "step size x 3": (pytest.approx(9.6e-3), 1.0),
        "steps x 0.5": (3.2e-3, 0.5),
        "steps x 2": (3.2e-3, 2.0),
    }
    assert len(plan.varied(Entry(OWN, False), task, records)) == 2  # it is not told the steps


def test_a_record_is_read_again(tmp_path):
    path = tmp_path / "folder" / "record.json"
    facts = {"steps": {"logistic": 1000}, "weights": {"sgd": "old"}}
    records = Records(path, facts)
    good = run_key("logistic", "sgd", {"lr": 0.1}, 0)
    results = {
        good: trained(3.0, 2.0, 1.0),
        run_key("logistic", "sgd", {"lr": 0.1}, 1): Failed("RuntimeError: no"),
        run_key("cart-pole", "sgd", {"lr": 0.1}, 1): Played(120.0, False),
        run_key("logistic", "sgd", {"lr": 9.0}, 0, told=2.0): Trained(
            (3.0,), math.inf, 1.0, 0.5, 4.0, 100, True
        ),
    }
    for key, result in results.items():
        records.add(key, result)
    more = {"steps": {"logistic": 1000, "quadratic": 7}, "weights": {"sgd": "old"}}
    again = Records(path, more)
    assert dict(again.items()) == results
    assert again.facts["steps"] == {"logistic": 1000, "quadratic": 7}
    json.loads(path.read_text(), parse_constant=pytest.fail)  # no infinity in JSON
    changed = {"weights": {"sgd": "new"}}
    with pytest.raises(ValueError, match=r"another weights 'sgd': old there, new here"):
        Records(path, changed)
    anew = Records(path, changed, again=["sgd"])
    assert anew.items() == []
    assert anew.facts["weights"] == {"sgd": "new"}
    with pytest.raises(ValueError, match=r"another steps 'logistic': 1000 there, 250 here"):
        Records(path, {"steps": {"logistic": 250}})


RUN = (
    '{"task": "logistic", "optimizer": "sgd", "setting": {"lr": 0.1}, "seed": 0, "told": 1.0, '
    '"losses": [3.0, 2.0], "error": 0.1, "seconds": 1.0, "step_seconds": 0.5, "state": 4.0, '
    '"parameters": 62, "diverged": false}'
)
RECORD = '{"format": 1, "facts": {"steps": {"logistic": 250}}, "runs": [' + RUN + "]}"


@pytest.mark.parametrize(
    ("part", "other"),
    [
        (RECORD, ""),
        (RECORD, "[]"),
        (RECORD, "{"),
        (RECORD, RECORD[:-20]),
        ('"format": 1', '"format": 2'),
        ('"format": 1, ', ""),
        ('{"logistic": 250}', "[1]"),
        ('{"steps": {"logistic": 250}}', "[1]"),
        (RUN, "{}"),
        (RUN, "1"),
        ('{"lr": 0.1}', "[0.1]"),
        ("[3.0, 2.0]", "[]"),
        ("[3.0, 2.0]", '["x"]'),
        ('"seconds": 1.0', '"seconds": "long"'),
        ('"seed": 0, ', ""),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, part, other):
    path = tmp_path / "record.json"
    path.write_text(RECORD)
    assert len(Records(path, {}).items()) == 1
    assert part in RECORD
    path.write_text(RECORD.replace(part, other))
    with pytest.raises(ValueError, match="is no record of a benchmark"):
        Records(path, {})


def test_a_score_is_that_of_its_seeds(tmp_path):
    plan = make_plan(names=("logistic",))
    own = {"logistic": [trained(4.0, 1.0, 0.25, error=0.2), trained(4.0, 4.0, 1.0, error=0.4)]}
    reference = {"logistic": [trained(4.0, 2.0, 1.0), trained(4.0, 2.0, 1.0)]}
    records = filled(tmp_path / "record.json", plan, own, reference)
    one = score(plan, records, Entry(OWN, False), TASKS["logistic"])
    assert one.final == pytest.approx(0.5)  # the geometric mean of 0.25 and 1
    assert one.spread == pytest.approx(0.75 / math.sqrt(2))
    assert one.error == pytest.approx(0.3)
    assert one.curve == pytest.approx((4.0, 2.0, 0.5))
    assert one.share_until(1.0) == pytest.approx(0.75)  # half way from 2 to 0.5, in the logarithm
    assert one.share_until(4.0) == pytest.approx(0.5)
    assert one.share_until(0.4) == math.inf
    found = summaries(all_scores(plan, records))
    summary = found[Entry(OWN, False)]
    assert (summary.wins, summary.tasks, summary.tests) == (1, 1, 0)
    assert summary.log_ratio == pytest.approx(math.log(0.5))
    assert summary.speed_up == pytest.approx(1 / 0.75)
    assert summary.algoperf == 1.0
    other = found[Entry(REFERENCE, True)]
    assert other.log_ratio == 0 and other.speed_up == 1
    assert other.algoperf == pytest.approx((4 - 1 / 0.75) / 3)


def test_time_is_that_of_the_steps_until_the_loss_is_reached(tmp_path):
    plan = make_plan(names=("logistic",), seeds=1)
    own = {"logistic": [trained(4.0, 1.0, 0.5, seconds=6.0)]}
    reference = {"logistic": [trained(4.0, 2.0, 1.0, seconds=2.0)]}
    records = filled(tmp_path / "record.json", plan, own, reference)
    summary = summaries(all_scores(plan, records))[Entry(OWN, False)]
    assert summary.speed_up == pytest.approx(2.0)
    assert summary.time_speed_up == pytest.approx(2.0 / 3.0)
    assert summary.time_algoperf == pytest.approx((4 - 1.5) / 3)


def test_a_diverged_run_counts_as_twice_the_loss(tmp_path):
    plan = make_plan()
    own = {
        "logistic": [trained(4.0, 0.1), trained(4.0, diverged=True)],
        "quadratic": [trained(4.0, 0.001), trained(4.0, 0.001)],
    }
    reference = {name: [trained(4.0, 1.0), trained(4.0, 1.0)] for name in NAMES}
    records = filled(tmp_path / "record.json", plan, own, reference)
    summary = summaries(all_scores(plan, records))[Entry(OWN, False)]
    assert summary.diverged == 1
    assert summary.log_ratio == pytest.approx(0.0)  # + 0.7 and - 0.7
    text = render(plan, records)
    assert "1 diverged" in text and "logistic regression" in text


def test_two_optimizers_are_compared_on_the_tasks_that_both_have_run(tmp_path):
    plan = make_plan(seeds=1)
    own = {"logistic": [trained(4.0, 0.5)], "quadratic": [trained(4.0, 3.0)]}
    reference = {name: [trained(4.0, 1.0)] for name in NAMES}
    records = filled(tmp_path / "record.json", plan, own, reference)
    scores = all_scores(plan, records)
    first, other = scores[Entry(OWN, False)], scores[Entry(REFERENCE, True)]
    # Of three times the loss only a factor of e^0.7 counts.
    mean, error = (math.log(0.5) + 0.7) / 2, (0.7 - math.log(0.5)) / 2
    assert losses_below(first, other) == (1, 2, pytest.approx(mean), pytest.approx(error))
    alone = losses_below({"logistic": first["logistic"]}, other)
    assert alone[:3] == (1, 1, math.log(0.5)) and math.isnan(alone.error)
    none = losses_below(first, {})
    assert none[:2] == (0, 0) and math.isnan(none.log_ratio) and math.isnan(none.error)
    assert "| AdamW, cosine, tuned       |     1 of 2 | +0.003 ± 0.697 |" in pairs_table(
        plan, records
    )


def test_an_optimizer_that_raises_on_a_task_is_not_left_out_of_the_means(tmp_path):
    plan = make_plan()
    failed = Failed("RuntimeError: no")
    own = {"logistic": [failed, failed], "quadratic": [trained(4.0, 0.5), trained(4.0, 0.5)]}
    reference = {name: [trained(4.0, 1.0), trained(4.0, 1.0)] for name in NAMES}
    records = filled(tmp_path / "record.json", plan, own, reference)
    summary = summaries(all_scores(plan, records))[Entry(OWN, False)]
    assert (summary.tasks, summary.wins, summary.tests, summary.diverged) == (2, 1, 1, 2)
    assert summary.log_ratio == pytest.approx((0.7 + math.log(0.5)) / 2)
    # From 4 to 1 takes 2 / 3 of the only interval from 4 to 0.5, in the logarithm.
    assert summary.speed_up == pytest.approx((0 + 1.5) / 2)
    assert summary.time_speed_up == pytest.approx((0 + 1.5) / 2)
    assert summary.algoperf == pytest.approx((0 + 1) / 2)
    assert summary.state == 8.0  # that of the task on which it is known
    assert "2 diverged" in render(plan, records)
    own["quadratic"] = [failed, failed]
    records = filled(tmp_path / "none.json", plan, own, reference)
    assert summaries(all_scores(plan, records))[Entry(OWN, False)].log_ratio == 0.7
    (row,) = [r for r in summary_table(plan, records).splitlines() if "| orthogonal-momentum" in r]
    assert row.split("|")[-2].strip() == "-"  # its state is not known
    draw(tmp_path / "none.png", plan, records)


def test_an_interrupted_benchmark_keeps_what_an_unbroken_one_does(tmp_path):
    records = Records(tmp_path / "record.json", {})
    key = run_key("logistic", "sgd", {"lr": 0.1}, 0)
    records.add(key, trained(3.0, 1.23456789))
    assert records.get(key).losses == (3.0, 1.2346)
    assert Records(tmp_path / "record.json", {}).get(key) == records.get(key)


def test_sensitivity_is_a_mean_log_ratio(tmp_path):
    plan, records = make_plan(), Records(tmp_path / "record.json", {})
    for name, (base, varied) in {"logistic": (1.0, 1.1), "quadratic": (1.0, 1.2)}.items():
        records.add(run_key(name, OWN.name, {"lr": 1.0}, 0), trained(3.0, base))
        records.add(run_key(name, OWN.name, {"lr": 3.0}, 0), trained(3.0, varied))
    assert sensitivities(plan, records, Entry(OWN, False)) == pytest.approx(
        {"step size x 3": (math.log(1.1) + math.log(1.2)) / 2}
    )


def test_means():
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert geometric_mean([1.0, math.inf]) == math.inf
    assert interquartile_mean([0, 1, 2, 3, 4, 5, 6, 100]) == 3.5
    assert interquartile_mean([1.0, 2.0, 6.0]) == 3.0
    assert log_ratio(1.0, 1e-9) == 0.7 and log_ratio(1e-9, 1.0) == -0.7
    assert log_ratio(math.inf, 1.0) == 0.7 and log_ratio(math.inf, math.inf) == 0
    assert log_ratio(1.1, 1.0) == pytest.approx(math.log(1.1))


def test_the_picture_and_the_tables_of_what_there_is(tmp_path):
    plan = make_plan()
    records = Records(tmp_path / "record.json", {})
    records.add(run_key("logistic", OWN.name, {"lr": 1.0}, 0), trained(3.0, 1.0))
    draw(tmp_path / "none.png", plan, records)
    assert not Path(tmp_path / "none.png").exists()  # nothing to compare with
    assert summary_table(plan, records) == ""
    assert "(1)" in render(plan, records)  # one seed of two
    own = {name: [trained(4.0, 0.8), trained(4.0, 0.9)] for name in NAMES}
    reference = {name: [trained(4.0, 1.0), trained(4.0, 1.0)] for name in NAMES}
    full = filled(tmp_path / "full.json", plan, own, reference)
    draw(tmp_path / "some.png", plan, full)
    assert (tmp_path / "some.png").read_bytes()[:4] == b"\x89PNG"
    recorded = plan_of(full)
    assert [task.name for task in recorded.tasks] == list(NAMES)
    assert [one.name for one in recorded.contestants] == ["orthogonal-momentum", "adamw-cosine"]
    assert (recorded.seeds, recorded.trials) == (2, 3)
    assert render(recorded, Records(tmp_path / "full.json", {})) == render(plan, full)
