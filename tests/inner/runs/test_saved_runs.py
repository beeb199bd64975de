"""Runs that are saved go on with the same numbers, in any number of processes."""

import json

import pytest
from conftest import same
from run_cases import estimate, make_runs, small_meta_parameters

from meta_train.estimators import create_estimator


def through_json(saved):
    """Facts as a checkpoint holds them; numbers of runs become text and numbers again."""
    facts = json.loads(json.dumps({index: about for index, (_, about) in saved.items()}))
    return {int(k): (saved[int(k)][0], about) for k, about in facts.items()}


@pytest.mark.parametrize("initialization", [False, True], ids=["random", "learned"])
@pytest.mark.parametrize(
    ("name", "settings"), [("truncated", {}), ("pes", {}), ("full", {}), ("es", {"clip": None})]
)
def test_saved_runs_go_on_bitwise_in_any_number_of_processes(name, settings, initialization):
    estimator = create_estimator(name)
    meta_parameters = small_meta_parameters(initialization)
    plan = {
        "copies": estimator.copies,
        "truncation_length": 2 if estimator.continues else None,
        "restart": 0.5,
        "total": 4,
    }
    unbroken = make_runs(meta_parameters, **plan)
    for outer_step in range(5):
        estimate(name, unbroken, outer_step, **settings)
    saved = through_json(unbroken.state_dict())
    resumed = make_runs(meta_parameters, **plan)
    resumed.load_state_dict(saved)
    assert same(_tensors(resumed.state_dict()), _tensors(saved))
    part = make_runs(meta_parameters, **plan, indices=[1, 2])
    part.load_state_dict(saved)
    for outer_step in range(5, 9):
        found, again, few = (
            estimate(name, runs, outer_step, **settings) for runs in (unbroken, resumed, part)
        )
        assert same(again.gradients, found.gradients)
        assert few.counted == 2
    assert any(offset for offset in unbroken.clocks.offsets)
    assert same(_tensors(resumed.state_dict()), _tensors(unbroken.state_dict()))
    assert _facts(resumed.state_dict()) == _facts(unbroken.state_dict())
    assert _facts(part.state_dict()) == {k: _facts(unbroken.state_dict())[k] for k in (1, 2)}


def _tensors(saved):
    return {str(index): tensors for index, (tensors, _) in saved.items()}


def _facts(saved):
    return {index: facts for index, (_, facts) in saved.items()}


def test_what_was_saved_does_not_change_when_runs_go_on():
    runs = make_runs(steps=4, truncation_length=2, copies=2)
    estimate("pes", runs)
    saved = runs.state_dict()
    before = {k: {n: t.clone() for n, t in tensors.items()} for k, (tensors, _) in saved.items()}
    for outer_step in range(1, 4):
        estimate("pes", runs, outer_step)
    assert same(_tensors(saved), {str(k): v for k, v in before.items()})


def test_a_checkpoint_of_fewer_runs_is_refused():
    saved = make_runs(truncation_length=2, total=2).state_dict()
    with pytest.raises(ValueError, match=r"does not hold runs \[2\]: it has fewer runs"):
        make_runs(truncation_length=2, total=3).load_state_dict(saved)
