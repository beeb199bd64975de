"""Messages of meta-training."""

from types import SimpleNamespace

import pytest

from learned_opt import create_rule
from meta_train.inner.vectorize import VectorizeChoice
from meta_train.outer.console import Console
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import Quadratic


def groups_of(**choices):
    return SimpleNamespace(
        members=[SimpleNamespace(name=name) for name in choices],
        runs=[SimpleNamespace(chosen=choice) for choice in choices.values()],
    )


def test_how_runs_train_is_said_once_and_the_reason_only_where_they_train_one_by_one(capsys):
    groups = groups_of(
        small=VectorizeChoice(True, "operations are small"),
        large=VectorizeChoice(False, "operations are large"),
        unasked=None,
    )
    console = Console(enabled=True)
    console.say_how_runs_train(groups)
    console.say_how_runs_train(groups)
    printed = "".join(capsys.readouterr())
    assert printed.splitlines() == [
        "small: all inner runs train in one call (vmap)",
        "large: inner runs train one by one (operations are large)",
    ]


@pytest.mark.parametrize(
    ("objective", "estimator", "told"),
    [
        ("last", "truncated", True),
        ("log-tail", "pes", True),
        ("last", "full", False),
        ("sum", "truncated", False),
    ],
)
def test_an_objective_of_whole_runs_is_said_to_see_windows(objective, estimator, told, capsys):
    settings = TrainSettings(objective=objective, estimator=estimator, truncation_length=7)
    MetaTrainer(create_rule("lstm"), Quadratic(dimensions=2), settings, device="cpu")
    printed = "".join(capsys.readouterr())
    assert ("reads the end of each window of 7 steps, not that of a run" in printed) == told
