"""The table of a few-shot job, as text and as JSON."""

import json
import math

import pytest
import torch

from meta_train.few_shot.episodes import method_settings
from meta_train.few_shot.methods.registry import get_method
from meta_train.few_shot.scores import Evaluation
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.table import RecordedEvaluation, as_json, render
from meta_train.few_shot.trained import TrainedMethod
from meta_train.few_shot.verification import Verification


def evaluated(metric="accuracy", diverged=0, **rows):
    """Evaluated methods by name, at the given steps."""
    return {
        name.replace("_", "-"): (
            TrainedMethod(name, get_method(name.replace("_", "-")).omniglot, None, {}, {}),
            Evaluation(metric, steps, torch.full((len(steps), 4), 0.5), diverged),
        )
        for name, steps in rows.items()
    }


def test_steps_that_methods_do_not_share_are_shown_as_their_own():
    few = render(evaluated(maml=(3,), prototypical=(0,)), "title").splitlines()
    assert few[2].split() == ["accuracy", "after", "0", "steps", "3", "steps"]
    assert few[3].split() == ["maml", "-", "50.0+-0.0"]
    assert few[4].split() == ["prototypical", "50.0+-0.0", "-"]
    many = render(evaluated(maml=(0, 1, 3), imaml=(0, 1, 16), reptile=(0, 1, 50)), "title")
    lines = many.splitlines()
    assert lines[2].endswith("its steps") and all("-" not in line.split() for line in lines[3:6])
    # Step 3, maml's own, was not evaluated: nothing is shown.
    other = render(evaluated(maml=(0, 1, 2, 4, 20), reptile=(0, 50)), "title").splitlines()
    assert other[3].split()[-1] == "-" and other[4].split()[-1] == "50.0+-0.0"


def test_the_table_says_how_many_episodes_diverged():
    for rows in (evaluated(maml=(1,), diverged=3), evaluated(maml=(1,), anil=(1,), diverged=3)):
        assert "maml: 3 of 4 episodes diverged and stopped there" in render(rows, "title")
    assert "diverged" not in render(evaluated(maml=(1,)), "title")


def test_a_written_evaluation_is_read_again():
    values = torch.tensor([[0.5, 0.7, 0.9], [0.1, 0.2, float("inf")]])
    evaluation = Evaluation("MSE", (0, 10), values, 1)
    facts = as_json(TrainedMethod("maml", get_method("maml").omniglot, None, {}, {}), evaluation)
    found = RecordedEvaluation(json.loads(json.dumps(facts, allow_nan=False)))
    assert (found.steps, found.episodes) == ((0, 10), 3)
    assert (found.mean(0), found.interval(0)) == (evaluation.mean(0), evaluation.interval(0))
    assert math.isnan(found.mean(10)) and math.isnan(found.interval(10))


@pytest.mark.parametrize("scale", [0.01, 1.0, 9.9995, 30.0, 99.994])
def test_cells_stand_apart_and_methods_show_their_own_steps(scale):
    values = scale * torch.tensor([0.1, 0.2, 0.5, 3.0]).expand(12, 4)
    few, many = (method_settings(name, FewShotConfig()) for name in ("maml", "imaml"))
    rows = {
        "maml": (
            TrainedMethod("maml", few, None, {}, {}),
            Evaluation("MSE", tuple(range(11)), values[1:], 0),
        ),
        "imaml": (
            TrainedMethod("imaml", many, None, {}, {}),
            Evaluation("MSE", (*range(11), 25), values, 0),
        ),
    }
    lines = render(rows, "title").splitlines()
    assert max(map(len, lines)) <= 80
    heads, *cells, own, _ = lines[2:]
    assert heads.split()[2:] == ["0", "steps", "1", "step", "5", "steps", "10", "steps"]
    assert all(len(line.split()) == 5 for line in cells)
    assert own.startswith("imaml, after its 25 steps: ")


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("verified", [False, True])
def test_many_steps_fit_into_80_characters_beside_the_other_columns(verified, published):
    steps = (0, 1, 2, 3, 4, 5)
    rows = evaluated(maml=steps, learned_momentum_gated_lstm=steps)
    if published:
        rows["maml"][0].facts["published"] = (97.68, 0.04)
    rates = {"maml": Verification(0.1234, 0.0123, 100, 400)} if verified else {}
    lines = render(rows, "title", rates).splitlines()
    assert max(map(len, lines)) <= 80
    shown = {0: "0 1 3 5", 1: "0 1 5", 2: "0 5"}[verified + published]
    heads = [word for word in lines[2].split() if word.isdigit()]
    assert heads == shown.split()
    assert ("EER" in lines[2], "published" in lines[2]) == (verified, published)
