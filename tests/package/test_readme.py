"""README: short, its lines are those that CI runs, and its numbers were measured."""

import importlib
import json
import re

import pytest
from pages import ROOT, read, rows, snippets

from learned_opt import load_card

README = read("README.md")
HELD_OUT = "| final training loss |"


def measured(name):
    return json.loads((ROOT / "docs" / "measured" / f"{name}.json").read_text())


def table_below(heading, text):
    """The rows of the table whose first row begins like this."""
    text = re.sub(r" +", " ", text)  # columns are padded
    return rows(heading + text.split(heading, 1)[1].split("\n\n", 1)[0].split("<!--")[0])


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_ci_runs_the_test_line_of_readme():
    lines = re.findall(r"^python -m pip install .* && python -m pytest$", README, re.M)
    assert len(lines) == 1
    assert lines[0] in read(".ci/run").splitlines()
    assert lines[0] in read("CONTRIBUTING.md").splitlines()


def test_the_main_job_needs_no_arguments():
    line = 'python -m pip install -c constraints.txt -e ".[meta]" && python -m meta_train'
    assert line in README.splitlines()


def test_the_first_snippet_sets_nothing():
    assert "LearnedOptimizer(model.parameters())\n" in snippets(README)[0]


def held_out(*optimizers):
    """Final losses on the held-out tasks by title, for these optimizers."""
    found = {}
    for column in measured("held_out")["columns"].values():
        by_name = {row["optimizer"]: row for row in column["rows"]}
        found[column["title"]] = [by_name[name] for name in optimizers]
    return found


LEARNED = ("step-size-lstm", "AdamW 1e-3", "AdamW tuned", "untrained step-size-lstm")
SHOWN = ("orthogonal-momentum", "AdamW 1e-3", "AdamW tuned", LEARNED[0], LEARNED[3])


@pytest.mark.parametrize(
    ("page", "optimizers"),
    [
        ("README.md", SHOWN),
        ("docs/measured.md", SHOWN),
        ("learned_opt/pretrained/step-size-lstm.md", LEARNED),
    ],
)
def test_the_held_out_table_is_what_was_measured(page, optimizers):
    expected = [
        [title, *(f"{row['final_loss']:.3g} ± {row['final_loss_std']:.1g}" for row in found)]
        for title, found in held_out(*optimizers).items()
    ]
    assert table_below(HELD_OUT, read(page)) == expected


def test_the_card_in_the_weights_holds_what_was_measured():
    found = held_out(*LEARNED)
    for column in load_card("step-size-lstm")["columns"].values():
        for shown, row in zip(column["rows"], found[column["title"]], strict=True):
            assert {**shown, "optimizer": row["optimizer"]} == row


@pytest.mark.parametrize("page", ["README.md", "docs/measured.md"])
def test_what_is_said_of_the_default_is_what_was_measured(page):
    found = held_out("orthogonal-momentum", "AdamW tuned")
    ratios = {t: own["final_loss"] / tuned["final_loss"] for t, (own, tuned) in found.items()}
    far = ratios.pop("SiLU MLP, digits")
    lower = sorted(f"{1 - ratio:.0%}" for ratio in ratios.values())
    assert len(ratios) == 6 and far < 1 / 10_000
    assert (lower[-1], min(ratios.values()), max(ratios.values())) == (
        "4%",
        pytest.approx(0.81, abs=0.005),
        pytest.approx(0.96, abs=0.005),
    )
    text = " ".join(read(page).split())
    assert "by 4% to 19%, and on digits by a factor of over 10,000" in text
    assert not any(own["diverged_runs"] for own, _ in found.values())


def test_the_gaps_of_the_learned_rule_are_what_was_measured():
    losses = {
        title: [row["final_loss"] for row in rows] for title, rows in held_out(*LEARNED).items()
    }
    long = losses.pop("ReLU MLP, 2000 steps")
    gaps = {title: own / tuned - 1 for title, (own, _, tuned, _) in losses.items()}
    others = [gap for title, gap in gaps.items() if title != "SiLU MLP, digits"]
    text = read("docs/measured.md")
    assert f"{sum(gaps.values()) / 6:+.2f}" == "-0.14" and "-0.14" in text
    assert f"{sum(others) / 5:+.2f}" == "+0.01" and "+0.01" in text
    assert f"{gaps['autoencoder, photos']:.0%}" == "11%" and "11%" in text
    assert f"{long[0] / long[2] - 1:.0%}" == "2%" and "2%" in text
    assert all(own < default for own, default, _, _ in losses.values())
    conv = losses["conv net, photos"]
    assert conv[3] < conv[0]
    assert not any(rows[0]["diverged_runs"] for rows in held_out(*LEARNED).values())


def test_the_digits_table_is_the_card_of_the_bundled_weights():
    shown = table_below("| training loss, and steps |", read("docs/measured.md"))
    expected = []
    for column in load_card("digits-lstm")["columns"].values():
        patience = 200 if column["steps"] == 100 else column["steps"]
        for figure in ("mean_loss", "final_loss"):
            expected.append(
                [
                    "< 2e-07"
                    if row[figure] < 2e-7
                    else f"{row[figure]:.2g} ± {row[figure + '_std']:.1g}"
                    for row in column["rows"]
                ]
            )
        steps = [row["steps_to_reach_learned"] for row in column["rows"][1:]]
        expected.append(
            [str(column["steps"]), *(f"{s:.0f}" if s else f"> {patience}" for s in steps)]
        )
    assert [row[1:] for row in shown] == expected


def test_the_cost_that_readme_gives_is_what_was_measured():
    small, middle, large = (
        f"{row['hot']:.0f}"
        for row in measured("step_cost")["rows"]
        if (row["rule"], row["code"], row["many"]) == ("orthogonal-momentum", "torch and C", True)
    )
    said = (
        f"{small} times fused AdamW at 1e5 parameters, {middle} times at 1e6 and {large} times at"
    )
    assert said in README


def test_the_shares_of_a_training_iteration_that_docs_give_are_what_was_measured():
    found = measured("gpt_iteration")
    assert found["parameters"] == 1_020_416
    assert (found["tokens"], found["threads"]) == (1536, 1)
    shares = {(row["optimizer"], row["code"]): 100 * row["share"] for row in found["rows"]}
    said = " ".join(read("docs/choose.md").split())
    in_c = [shares[name, "C"] for name in ("step-size-lstm", "adam-lstm", "lstm")]
    first, second, third = in_c
    assert (
        f"adds {first:.2g}% to the passes, `adam-lstm` {second:.0f}% and `lstm` {third:.0f}%"
        in said
    )
    default, muon = shares["orthogonal-momentum", "torch and C"], shares["Muon", "torch"]
    assert f"The default adds {default:.0f}%, Muon {muon:.0f}%" in said


@pytest.mark.parametrize("page", ["README.md", "docs/benchmark.md"])
def test_what_a_page_says_of_the_benchmark_stands_in_its_table(page):
    table = rows(read("docs/benchmark.md").split("<!-- table: benchmark -->")[1])
    row = next(row for row in table if row[0] == "orthogonal-momentum")
    lower, mean, test = row[1], row[2], row[7]
    said = " ".join(read(page).split())
    assert f"on {lower}" in said
    assert f"mean log ratio of {mean}" in said
    assert f"no worse on {test}" in said


def test_the_memory_table_is_what_was_measured():
    expected: dict = {}
    for row in measured("unroll_memory")["rows"]:
        cell = f"{row['mib']:.0f}"
        if row.get("seconds"):
            cell += f" ({1000 * row['seconds'] / row['steps']:.0f})"
        expected.setdefault(f"{row['steps']:,} steps", []).append(cell)
    shown = table_below("| peak, MiB (ms a step), at |", read("docs/estimators.md"))
    assert [[steps, *[cell for cell in row if cell != "-"]] for steps, *row in shown] == [
        [steps, *row] for steps, row in expected.items()
    ]


def test_the_meta_gradient_table_is_what_was_measured():
    expected = [
        [row["library"], f"{row['ms']:.3g}", f"{row['x_higher']:.2f}", f"{row['peak_mib']:.3g}"]
        for row in measured("meta_gradient")["rows"]
    ]
    shown = table_below("| case | library |", read("docs/measured.md"))
    assert [row[1:] for row in shown] == expected


@pytest.mark.parametrize(
    ("program", "name"), [("few_shot_table", "few_shot"), ("sine_table", "sine")]
)
def test_the_few_shot_documents_are_what_was_measured(program, name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "few_shot")
    tables = importlib.import_module(program).tables
    found = measured(name)
    shown = importlib.import_module("documents").find_tables(read(f"docs/{name}.md"))
    expected = tables(found.get("cells", found))
    if name == "few_shot":
        expected |= importlib.import_module("bundled").tables(measured("few_shot_bundled"))
        imagined = importlib.import_module("hallucination")
        expected |= imagined.hallucination_table(measured("few_shot_hallucination"))
        readers = importlib.import_module("readers")
        expected |= readers.readers_table(measured("few_shot_readers"))
    assert shown == expected


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
    lines = [" ".join(line.split()) for line in table.seeds_table(rows).splitlines()]
    spread = "| 2.000 ± 1.414 | 1.500 ± 0.707 | 1.000 ± 0.707 | 2 of 2 | 1 of 2 | 2 of 2 |"
    assert [line.split(" ", 2)[2] for line in lines[2:]] == [spread] * 10


def test_the_picture_is_of_the_outer_steps_that_readme_says():
    rows = measured("sine")["10"]
    steps = {name: row["outer_steps"] for name, row in rows.items()}
    assert all(
        steps[name] == pytest.approx(70_000, rel=0.01) for name in ("maml", "fomaml", "anil")
    )
    others = ("maml-further", "learned-gated-lstm", "reptile-sgd", "layer-step-rates")
    assert all(steps[name] == 3000 for name in others) and steps["meta-sgd"] == 21_000


GUIDE = " ".join(read("docs/initialisations.md").split())


def test_the_sine_table_is_what_was_measured():
    results = measured("sine")["10"]
    shown = table_below("| mean squared error after |", read("docs/initialisations.md"))
    assert len(shown) == 3
    for name, *figures in shown:
        found = {one["steps"]: one for one in results[name.strip("`")]["results"]}
        expected = [found[step] for step in (0, 1, 2, 5, 10)]
        assert figures == [f"{one['mean']:.2f} ± {one['interval']:.2f}" for one in expected]


@pytest.mark.parametrize("points", ["10", "5"])
def test_learned_gates_are_below_fixed_steps(points):
    results = measured("sine")[points]
    learned, *fixed = (
        {one["steps"]: one["mean"] for one in results[name]["results"]}
        for name in ("learned-gated-lstm", "maml", "maml-further")
    )
    assert all(learned[step] < other[step] for other in fixed for step in range(1, 11))


def test_shares_of_curves_are_what_was_measured():
    paired = measured("sine")["paired"]

    def shares(points, other):
        found = [row["lower"] for row in paired[points][other]]
        return f"{min(found):.0%} to {max(found):.0%}"

    for figure in (shares("10", "maml"), shares("5", "maml"), shares("5", "maml-further")):
        assert figure in GUIDE
    first, *_, last = paired["10"]["maml-further"]
    for figure in (f"{first['lower']:.0%} of the curves", f"{last['lower']:.0%} after ten"):
        assert figure in GUIDE
    assert f"{last['difference']:.3f} ± {last['interval']:.3f}" in GUIDE
    for others in paired.values():
        assert all(row["median"] < row["other_median"] for one in others.values() for row in one)
        assert all(row["difference"] > row["interval"] for row in others["maml-further"])


def test_counts_of_seeds_are_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "few_shot")
    table = importlib.import_module("sine_table")
    results = measured("sine")["seeds"]["10"]
    count = len(results["maml"])

    def seeds_below(kind, others):
        errors = (table.of_seeds(results, kind, step) for step in range(1, 11))
        return [table.seeds_below(one, others) for one in errors]

    assert f"{count} seeds" in GUIDE
    assert set(seeds_below("mean", table.FIXED)) == {count}
    assert set(seeds_below("median", ("maml",))) == {count}
    least = min(seeds_below("median", table.FIXED))
    assert f"at least {least} of the {count}" in GUIDE


def test_learned_learning_rates_are_lower_where_they_were_trained():
    results = measured("sine")["10"]
    names = ("learned-gated-lstm", "meta-sgd", "layer-step-rates")
    gates, single, stepwise = (
        {one["steps"]: one["mean"] for one in results[name]["results"]} for name in names
    )
    assert single[1] < gates[1] and all(stepwise[step] < gates[step] for step in (4, 5, 6))
    assert single[10] is None or single[10] > 10
    assert stepwise[10] is None or stepwise[10] > gates[10]


def test_the_omniglot_table_is_what_was_measured():
    shown = table_below("| method | seed | accuracy, % |", read("docs/initialisations.md"))
    expected = [
        [
            f"{cell['seed']}",
            f"{100 * cell['accuracy']:.1f} ± {100 * cell['interval']:.1f}",
            f"{cell['outer_steps']:,}",
            f"{cell['minutes']:.0f}",
        ]
        for name in ("maml", "fomaml", "prototypical")
        for cell in measured("few_shot")["cells"]
        if (cell["row"], cell["ways"], cell["shots"]) == (name, 5, 1)
    ]
    assert [row[1:] for row in shown] == expected
