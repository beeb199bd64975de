"""README says what is: its commands are those that CI runs, its numbers those of the card."""

import importlib
import json
import re
from pathlib import Path

import pytest
import torch

import learned_opt
from learned_opt import list_pretrained, list_rules, load_card
from learned_opt.rules import create_rule
from meta_train import estimators
from meta_train.estimators import ESTIMATORS
from meta_train.evaluation.report import FLOOR
from meta_train.outer import settings
from meta_train.outer.trainer import MetaTrainer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_ci_runs_the_test_line_of_readme():
    lines = re.findall(r"^python -m pip install .* && python -m pytest$", README, re.M)
    assert len(lines) == 1
    assert lines[0] in (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[0] in (ROOT / "CONTRIBUTING.md").read_text().splitlines()


def test_the_main_job_needs_no_arguments():
    assert re.search(r"^python -m pip install .* && python -m meta_train$", README, re.M)


def test_every_file_that_readme_links_to_is_there():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    anchors = {
        "#" + heading.lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", README, re.M)
    }
    assert len(links) > 5
    assert [link for link in links if link not in anchors and not (ROOT / link).exists()] == []


def test_the_table_is_the_card_of_the_bundled_weights():
    table = README.split("<!-- table:")[1].split("<!-- end of table -->")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    shown = [[cell.strip() for cell in row.split("|")[2:-1]] for row in rows]
    expected = []
    for column in load_card("digits-lstm")["columns"].values():
        patience = max(column["steps"], 2 * column["steps"] if column["steps"] == 100 else 0)
        for figure in ("mean_loss", "final_loss"):
            values = [row[figure] for row in column["rows"]]
            cells = [
                f"< {FLOOR:g}" if row[figure] < FLOOR
                else f"{row[figure]:.2g} ± {row[figure + '_std']:.1g}"
                for row in column["rows"]
            ]  # fmt: skip
            cells[values.index(min(values))] = f"**{cells[values.index(min(values))]}**"
            expected.append(cells)
        steps = [row["steps_to_reach_learned"] for row in column["rows"][1:]]
        expected.append(
            [str(column["steps"]), *(f"{s:.0f}" if s else f"> {patience}" for s in steps)]
        )
    assert shown == expected


def measured(name):
    return json.loads((ROOT / "docs" / "measured" / f"{name}.json").read_text())


def rows_below(heading, text=README):
    """The cells of the table that begins with this heading."""
    body = text.split(heading, 1)[1].split("\n\n", 1)[0]
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    return [[cell.strip(" *") for cell in row.split("|")[1:-1]] for row in rows[1:]]


@pytest.mark.parametrize("where", ["README.md", "learned_opt/pretrained/step-size-lstm.md"])
def test_the_held_out_table_is_what_was_measured(where):
    expected = [
        [column["title"]]
        + [f"{row['final_loss']:.3g} ± {row['final_loss_std']:.1g}" for row in column["rows"]]
        for column in measured("held_out")["columns"].values()
    ]
    assert rows_below("| final training loss |", (ROOT / where).read_text()) == expected


def test_the_card_in_the_weights_holds_what_was_measured():
    assert load_card("step-size-lstm")["columns"] == measured("held_out")["columns"]


def test_the_memory_table_is_what_was_measured():
    expected: dict = {}
    for row in measured("unroll_memory")["rows"]:
        cell = f"{row['mib']:.0f}"
        if row.get("seconds"):
            cell += f" ({1000 * row['seconds'] / row['steps']:.0f})"
        expected.setdefault(f"{row['steps']:,} steps", {})[row["mode"]] = cell
    modes = ("plain", "checkpointing", "truncated", "pes")
    lines = [[steps, *(cells.get(m, "-") for m in modes)] for steps, cells in expected.items()]
    assert rows_below("| peak, MiB (ms a step), at |") == lines


def test_the_meta_gradient_table_is_what_was_measured():
    expected = [
        [row["library"], f"{row['ms']:.3g}", f"{row['x_higher']:.2f}", f"{row['peak_mib']:.3g}"]
        for row in measured("meta_gradient")["rows"]
    ]
    assert [row[1:] for row in rows_below("| case | library |")] == expected


@pytest.mark.parametrize(
    ("program", "name"), [("few_shot_table", "few_shot"), ("sine_table", "sine")]
)
def test_the_few_shot_documents_are_what_was_measured(program, name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "few_shot")
    found = measured(name)
    expected = importlib.import_module(program).document(found.get("cells", found))
    assert (ROOT / "docs" / f"{name}.md").read_text() == expected


def test_seeds_are_shown_with_their_spread_and_counted(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "few_shot")
    table = importlib.import_module("sine_table")

    def curves(median, mean):
        return {"median": [median] * 11, "mean": [mean] * 11}

    rows = {
        "maml": {"0": curves(1.0, 9.0), "1": curves(3.0, 9.0)},
        "maml-further": {"1": curves(1.0, 8.0), "0": curves(2.0, 8.0)},
        "learned-gated-lstm": {"0": curves(0.5, 7.0), "1": curves(1.5, 7.0)},
    }
    lines = list(table.seed_tables({"10": rows}))
    assert lines[0] == "From 10 points, 2 seeds:\n"
    spread = "| 2.000 ± 1.414 | 1.500 ± 0.707 | 1.000 ± 0.707 | 2 of 2 | 1 of 2 | 2 of 2 |"
    assert [line.split(" ", 2)[2] for line in lines[3:-1]] == [spread] * 10


def test_the_sine_table_is_what_was_measured():
    rows = measured("sine")["10"]
    shown = rows_below("| mean squared error after |")
    assert len(shown) >= 3
    for name, *cells in shown:
        found = {one["steps"]: one for one in rows[name.strip("`")]["results"]}
        means = [found[step]["mean"] for step in (0, 1, 2, 5, 10)]
        halves = [found[step]["interval"] for step in (0, 1, 2, 5, 10)]
        expected = [f"{mean:.2f} ± {half:.2f}" for mean, half in zip(means, halves, strict=True)]
        assert cells == expected


@pytest.mark.parametrize("points", ["10", "5"])
def test_the_learned_rule_is_below_fixed_steps_as_readme_says(points):
    rows = measured("sine")[points]
    learned, *fixed = (
        {one["steps"]: one["mean"] for one in rows[name]["results"]}
        for name in ("learned-gated-lstm", "maml", "maml-further")
    )
    assert all(learned[step] < other[step] for other in fixed for step in range(1, 11))


def test_what_readme_says_of_pairs_was_measured():
    paired, text = measured("sine")["paired"], " ".join(README.split())

    def said(points, other):
        shares = [row["lower"] for row in paired[points][other]]
        return f"{min(shares):.0%} to {max(shares):.0%}"

    assert f"below MAML's on {said('10', 'maml')} of them" in text
    assert f"(from 5 points {said('5', 'maml')})" in text
    assert f"from 5 points it is below the control's on {said('5', 'maml-further')}." in text
    first, *_, last = paired["10"]["maml-further"]
    lead = (
        f"from {first['lower']:.0%} of the curves after one step to {last['lower']:.0%} after ten"
    )
    assert lead in text
    assert f"lower by {last['difference']:.3f} ± {last['interval']:.3f};" in text
    for others in paired.values():
        assert all(row["median"] < row["other_median"] for rows in others.values() for row in rows)
        assert all(row["difference"] > row["interval"] for row in others["maml-further"])


def test_what_readme_says_of_seeds_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "few_shot")
    table = importlib.import_module("sine_table")
    rows, text = measured("sine")["seeds"]["10"], " ".join(README.split())
    count = len(rows["maml"])

    def seeds_below(kind, others):
        errors = (table.of_seeds(rows, kind, step) for step in range(1, 11))
        return [table.seeds_below(one, others) for one in errors]

    assert f"Over {count} seeds of meta-training" in text
    assert set(seeds_below("mean", table.FIXED)) == {count}
    assert set(seeds_below("median", ("maml",))) == {count}
    least = min(seeds_below("median", table.FIXED))
    assert f"below the control's in at least {least} of the {count}" in text


def test_what_readme_says_of_learned_rates_was_measured():
    rows = measured("sine")["10"]
    names = ("learned-gated-lstm", "meta-sgd", "layer-step-rates")
    gates, single, stepwise = (
        {one["steps"]: one["mean"] for one in rows[name]["results"]} for name in names
    )
    assert single[1] < gates[1] and all(stepwise[step] < gates[step] for step in (4, 5, 6))
    assert single[10] is None or single[10] > 10
    assert stepwise[10] is None or stepwise[10] > gates[10]


def test_the_picture_is_of_the_outer_steps_that_readme_says():
    rows = measured("sine")["10"]
    steps = {name: row["outer_steps"] for name, row in rows.items()}
    assert all(
        steps[name] == pytest.approx(70_000, rel=0.01) for name in ("maml", "fomaml", "anil")
    )
    others = ("maml-further", "learned-gated-lstm", "reptile-sgd", "layer-step-rates")
    assert all(steps[name] == 3000 for name in others) and steps["meta-sgd"] == 21_000


def test_the_control_of_the_few_shot_table_took_as_many_outer_steps():
    cells = {(c["row"], c["ways"], c["shots"]): c for c in measured("few_shot")["cells"]}
    places = [place[1:] for place in cells if place[0] == "maml-further"]
    assert places
    for place in places:
        pair = [cells[name, *place] for name in ("maml-further", "learned-gated-lstm")]
        assert pair[0]["outer_steps"] == pair[1]["outer_steps"], place


def test_what_readme_says_of_omniglot_was_measured():
    cells = {(c["row"], c["ways"], c["shots"]): c for c in measured("few_shot")["cells"]}
    text = " ".join(README.split())
    for name, said in (
        ("maml", "MAML has"),
        ("fomaml", "first-order MAML"),
        ("prototypical", "prototypical networks"),
    ):
        cell = cells[name, 5, 1]
        figure = f"{100 * cell['accuracy']:.1f} ± {100 * cell['interval']:.1f}%"
        assert f"{said} {figure} after {cell['minutes']:.0f} minutes" in text
    learned = [cell for (name, *at), cell in cells.items() if at == [5, 1] and "lstm" in name]
    assert all(cell["accuracy"] <= cells["maml", 5, 1]["accuracy"] for cell in learned)


@pytest.mark.parametrize("name", list_rules())
def test_the_state_table_is_true(name):
    rule = create_rule(name)
    parameter = torch.zeros(8, 4)
    state = rule.init_state(parameter)
    held = sum(value.nbytes for value in state.values() if value.shape[:2] == (8, 4)) // 32
    assert re.search(rf"^\| `{name}` \|.*\| {held} \|$", README, re.M), (name, held)


def test_the_python_in_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.S):
        exec(block, names)
        if "optimizer" in names:
            names["model"](torch.ones(2, 64)).sum().backward()
            names["optimizer"].step()
    assert isinstance(names["rule"], learned_opt.UpdateRule)
    assert (tmp_path / "runs" / "gates").is_dir()


def test_the_python_in_contributing_trains(monkeypatch):
    names: dict = {"__name__": "contributing"}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S):
        exec(block, names)
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, -0.1])
    learned_opt.LearnedOptimizer([parameter], rule=names["SignSGD"](), lr=0.5).step()
    assert parameter.tolist() == [-0.5, 0.5]

    monkeypatch.setattr(estimators, "ESTIMATORS", {**ESTIMATORS, "half": names["HalfStep"]})
    monkeypatch.setattr(settings, "ESTIMATORS", estimators.ESTIMATORS)
    norms = []
    for estimator in ("full", "half"):
        torch.manual_seed(0)
        trainer = MetaTrainer(
            create_rule("adam-lstm", hidden_size=3),
            names["Bowl"](),
            settings.TrainSettings(estimator=estimator, horizons=(3,), runs=2),
            device="cpu",
        )
        norms.append(trainer.take_outer_step().gradient_norm)
    assert norms[0] == pytest.approx(2 * norms[1])


@pytest.mark.parametrize("name", list_pretrained())
def test_every_bundled_rule_has_a_card_to_read(name):
    text = (ROOT / "learned_opt" / "pretrained" / f"{name}.md").read_text()
    for heading in ("## Trained on", "## How well", "## Where not to use it"):
        assert heading in text
