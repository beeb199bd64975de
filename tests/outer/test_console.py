"""Messages of meta-training."""

from types import SimpleNamespace

from meta_train.inner.vectorize import VectorizeChoice
from meta_train.outer.console import Console


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
