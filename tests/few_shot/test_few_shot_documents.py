"""Facts that the prose of docs/few_shot.md and docs/sine.md states, in the measured figures."""

import json
from pathlib import Path

import pytest

MEASURED = Path(__file__).parents[2] / "docs" / "measured"
CELLS = json.loads((MEASURED / "few_shot.json").read_text())["cells"]
SINE = json.loads((MEASURED / "sine.json").read_text())


def cell(name, ways, shots):
    (found,) = [c for c in CELLS if (c["row"], c["ways"], c["shots"]) == (name, ways, shots)]
    return found


def test_cells_have_one_protocol_one_seed_and_600_episodes():
    for key, value in {"protocol": "short", "seed": 0, "episodes": 600, "device": "cpu"}.items():
        assert {one[key] for one in CELLS} == {value}, key
    minutes = sorted(one["minutes"] for one in CELLS)
    assert 1 <= minutes[len(minutes) // 2] <= 2
    half_an_hour = [one for one in CELLS if one["minutes"] > 20]
    assert [(c["row"], c["ways"], c["shots"]) for c in half_an_hour] == [
        ("maml", 5, 1),
        ("fomaml", 5, 1),
        ("prototypical", 5, 1),
    ]


def test_learned_rules_are_above_the_control_at_20_way_5_shot_alone():
    above = []
    for one in CELLS:
        if one["row"].startswith("learned-"):
            control = cell("maml-further", one["ways"], one["shots"])
            margin = one["interval"] + control["interval"]
            if one["accuracy"] - control["accuracy"] > margin:
                above.append((one["row"], one["ways"], one["shots"]))
    assert above == [("learned-adam-lstm", 20, 5), ("learned-step-size-lstm", 20, 5)]


@pytest.mark.parametrize("points", ["10", "5"])
def test_outer_steps_and_learning_rates_of_sine_curves(points):
    found = {name: (one["outer_steps"], one["lr"]) for name, one in SINE[points].items()}
    assert found["maml"] == (70_200, 0.001)
    assert found["maml-further"] == found["learned-gated-lstm"] == (3000, 0.003)
    if points == "10":
        assert found["fomaml"] == found["anil"] == (70_200, 0.001)
        assert found["meta-sgd"] == (21_000, 0.002)
    assert {one["episodes"] for one in SINE[points].values()} == {1000}
