"""Facts that the prose of docs/few_shot.md and docs/sine.md states, in the measured figures."""

import json
from pathlib import Path

import pytest

MEASURED = Path(__file__).parents[2] / "docs" / "measured"
CELLS = json.loads((MEASURED / "few_shot.json").read_text())["cells"]
SINE = json.loads((MEASURED / "sine.json").read_text())


DOCUMENT = (MEASURED.parent / "few_shot.md").read_text()


def test_cells_were_measured_alike_and_none_stands_twice():
    for key, value in {"protocol": "short", "episodes": 600, "device": "cpu"}.items():
        assert {one[key] for one in CELLS} == {value}, key
    places = [(one["row"], one["ways"], one["shots"], one["seed"]) for one in CELLS]
    assert len(set(places)) == len(places)
    rows = [one["row"] for one in CELLS if (one["ways"], one["shots"]) == (5, 1)]
    assert {"maml", "fomaml", "prototypical", "meta-lstm"} <= set(rows)


def test_the_meta_learner_lstm_reaches_what_the_guide_says():
    found = {one["shots"]: one for one in CELLS if (one["row"], one["seed"]) == ("meta-lstm", 0)}
    guide = " ".join((MEASURED.parent / "initialisations.md").read_text().split())
    for shots, (minutes, least) in {1: (37, 0.90), 5: (25, 0.95)}.items():
        one = found[shots]
        assert one["accuracy"] > least and not one["transductive"]
        assert f"{100 * one['accuracy']:.1f} ± {100 * one['interval']:.1f}%" in guide
        assert round(one["minutes"]) == minutes and f"after {minutes}" in guide


def test_all_cells_were_validated_and_the_document_says_what_is_missing_to_the_papers():
    assert all(one["validation"] for one in CELLS)
    reasons = DOCUMENT.split("## Why the figures are below")[1].split("\n## ")[0]
    for one in CELLS:
        assert f"`{one['row']}`" in reasons


def test_the_table_says_by_how_much_validation_rose_in_the_last_third():
    rows = DOCUMENT.split("<!-- table: trained -->")[1].split("<!-- end -->")[0].splitlines()
    heads, _, *rows = [[word.strip() for word in row.split("|")[1:-1]] for row in rows if row]
    rose = {tuple(row[:3]): row[heads.index("rose, points")] for row in rows}
    # 96.8% at step 4,500 and at 5,000, 97.4% at 7,500; 96.6% at 1,750 and at 3,000.
    assert rose["maml", "5-way 1-shot", "0"] == "0.6"
    assert rose["prototypical", "5-way 1-shot", "0"] == "0.1"
    assert rose["fomaml", "5-way 1-shot", "0"] == "0.4"
    assert len(rose) == len(CELLS)
    # Trainings that stopped while validation still rose are not in the document.
    assert all(float(points) <= 1.0 for points in rose.values() if points)


def test_maml_and_prototypical_networks_have_two_seeds_and_the_longer_maml_reaches_more():
    found = {}
    for one in CELLS:
        if one["row"] in ("maml", "prototypical") and (one["ways"], one["shots"]) == (5, 1):
            found[one["row"], one["seed"]] = (
                f"{100 * one['accuracy']:.1f} ± {100 * one['interval']:.1f}"
            )
    assert found == {
        ("maml", 0): "96.9 ± 0.3",
        ("maml", 1): "97.8 ± 0.3",
        ("prototypical", 0): "97.4 ± 0.3",
        ("prototypical", 1): "97.8 ± 0.3",
    }
    # The weights of MAML's seed 1 on the episodes of seed 0.
    (other,) = [
        one
        for one in json.loads((MEASURED / "few_shot_bundled.json").read_text())
        if (one["initialization"], one["shots"], one["seed"]) == ("omniglot-maml", 1, 0)
    ]
    figure = f"{100 * other['accuracy']:.1f} ± {100 * other['interval']:.1f}"
    said = f"its weights reach {figure}%, and those of seed 0 {found['maml', 0]}%"
    assert said in " ".join(DOCUMENT.split())


def test_the_lstm_that_reads_a_training_set_is_above_its_papers_figures_from_the_second_image_on():
    one, other = json.loads((MEASURED / "few_shot_readers.json").read_text())
    assert (one["row"], other["row"]) == ("lstm-reader", "mann")
    assert all((row["sequences"], row["outer_steps"]) == (600, 6250) for row in (one, other))
    found, of_mann = (
        {place["instance"]: place["mean"] for place in row["results"]} for row in (one, other)
    )
    # Santoro et al. 2016, table 1, one-hot labels: 49.5, 63.6 and 62.5%.
    above = [100 * found[2] - 49.5, 100 * found[5] - 63.6, 100 * found[10] - 62.5]
    assert (round(min(above)), round(max(above))) == (11, 15) and "by 11\nto 15 points" in DOCUMENT
    guide = (MEASURED.parent / "initialisations.md").read_text()
    for words in (f"{100 * found[2]:.0f}% of second", f"{100 * found[10]:.0f}% of tenth"):
        assert words in guide
    assert f"right on {100 * of_mann[2]:.0f}% and {100 * of_mann[10]:.0f}% after as many" in guide


def test_bundled_initialisations_are_the_trained_rows_and_reach_what_their_cards_say():
    measured = json.loads((MEASURED / "few_shot_bundled.json").read_text())
    seeds = {"omniglot-maml": 1, "omniglot-prototypical": 0}
    found = {
        (one["initialization"], one["ways"], one["shots"]): one
        for one in measured
        if one["seed"] == seeds[one["initialization"]]
    }
    for row, ways in (("maml", 5), ("prototypical", 60)):
        one = found[f"omniglot-{row}", 5, 1]
        (cell,) = (
            cell
            for cell in CELLS
            if (cell["row"], cell["ways"], cell["shots"], cell["seed"]) == (row, 5, 1, one["seed"])
        )
        assert one["episodes"] == 600 and one["trained_ways"] == ways
        assert abs(one["accuracy"] - cell["accuracy"]) < 1e-3  # up to rounding of sums
    for (name, *_), one in found.items():
        figure = f"{100 * one['accuracy']:.1f} ± {100 * one['interval']:.1f}"
        card = MEASURED.parents[1] / "learned_opt" / "pretrained" / "initializations" / f"{name}.md"
        assert figure in DOCUMENT and figure in card.read_text()


def test_the_guide_says_what_the_bundled_embedding_reaches_at_other_settings():
    measured = json.loads((MEASURED / "few_shot_bundled.json").read_text())
    found = {
        (one["ways"], one["shots"]): one["accuracy"]
        for one in measured
        if (one["initialization"], one["seed"]) == ("omniglot-prototypical", 0)
    }
    guide = " ".join((MEASURED.parent / "initialisations.md").read_text().split())
    assert f"{100 * found[5, 5]:.1f}% of the queries at 5-way 5-shot" in guide
    assert f"on {100 * found[20, 1]:.1f}% at 20-way 1-shot" in guide


def test_bundled_initialisations_do_as_well_on_the_episodes_of_another_seed():
    measured = json.loads((MEASURED / "few_shot_bundled.json").read_text())
    places = [(one["initialization"], one["ways"], one["shots"]) for one in measured]
    assert len(measured) == 12 and len(set(places)) == 6
    for place in set(places):
        first, second = (one for one, at in zip(measured, places, strict=True) if at == place)
        assert {first["seed"], second["seed"]} == {0, 1}
        assert abs(first["accuracy"] - second["accuracy"]) < first["interval"] + second["interval"]
        for one in (first, second):
            assert f"{100 * one['accuracy']:.1f} ± {100 * one['interval']:.1f}" in DOCUMENT
        if place == ("omniglot-prototypical", 5, 1):
            (cell,) = [
                one for one in CELLS if {"row": "prototypical", "seed": 0}.items() <= one.items()
            ]
            assert cell["equal_error"] == [first["equal_error"][k] for k in ("rate", "interval")]
            # 600 episodes of 75 query and 5 support images.
            assert first["equal_error"]["pairs"] == second["equal_error"]["pairs"] == 225_000
            rates = [one["equal_error"]["rate"] for one in (first, second)]
            assert all(f"{100 * rate:.1f} ± " in DOCUMENT for rate in rates)
            assert 0 < min(rates) and max(rates) < 0.05


def test_the_learned_rule_is_below_its_control_by_more_than_both_intervals_on_sine_curves():
    below = {}
    for points in ("10", "5"):
        own = SINE[points]["learned-gated-lstm"]["results"]
        control = SINE[points]["maml-further"]["results"]
        below[points] = [
            one["steps"]
            for one, other in zip(own, control, strict=True)
            if other["mean"] - one["mean"] > one["interval"] + other["interval"]
        ]
    assert below == {"10": [1, 2, 3, 4], "5": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}


@pytest.mark.parametrize("points", ["10", "5"])
def test_outer_steps_and_learning_rates_of_sine_curves(points):
    found = {name: (one["outer_steps"], one["lr"]) for name, one in SINE[points].items()}
    assert found["maml"] == (70_200, 0.001)
    assert found["maml-further"] == found["learned-gated-lstm"] == (3000, 0.003)
    if points == "10":
        assert found["fomaml"] == found["anil"] == (70_200, 0.001)
        assert found["meta-sgd"] == (21_000, 0.002)
    assert {one["episodes"] for one in SINE[points].values()} == {1000}
