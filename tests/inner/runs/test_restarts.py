"""Runs that go on from where an earlier one ended: the restart buffer."""

import pytest
import torch
from conftest import same
from run_cases import begin, estimate, make_runs, moved

from meta_train.inner.state import map_states


@pytest.mark.parametrize("copies", [1, 2])
def test_a_restarted_run_goes_on_from_where_one_ended(copies):
    runs = make_runs(steps=4, truncation_length=2, restart=1.0, copies=copies, total=2)
    runs.clocks.lengths = [4, 4]
    origins = list(runs.clocks.origins)
    runs.end(moved(runs))
    after = moved(runs)
    named = dict(after.named_tensors())
    problems = [problem.parameters for problem in runs.problems]
    runs.end(after)
    assert (runs.clocks.ages, runs.clocks.offsets, runs.clocks.episodes) == ([0, 0], [4, 4], [1, 1])
    assert runs.clocks.origins == origins  # the same problem
    assert same([problem.parameters for problem in runs.problems], problems)
    assert same(dict(runs.inner.named_tensors()), named)
    assert runs._planned_steps().tolist() == [8.0] * 2 * copies
    assert not begin(runs).just_started.any()
    for _ in range(2):
        runs.end(moved(runs))
    # There are two ends to go on from now.
    assert [[kept.age for kept in row] for row in runs.buffer.ends] == [[4, 8]] * 2
    assert set(runs.clocks.offsets) <= {4, 8}


def test_whole_runs_are_restarted_too():
    runs = make_runs(steps=4, restart=1.0, copies=2)
    begin(runs)
    ended = map_states(lambda t: torch.cat([t, t]), map_states(lambda t: t[:3], moved(runs)))
    runs.end(ended)
    assert begin(runs, 1).steps == 4
    assert runs.clocks.offsets == [4] * 3
    assert runs.clocks.origins == [(k, 0) for k in range(3)]
    assert same(dict(runs.inner.named_tensors()), dict(ended.named_tensors()))
    assert runs._planned_steps().tolist() == [8.0] * 6


def test_without_restarts_nothing_is_kept_and_runs_begin_afresh():
    runs = make_runs(steps=2, truncation_length=2)
    for _ in range(5):
        runs.end(moved(runs))
    assert runs.buffer.ends == [[], [], []]
    assert (runs.clocks.offsets, runs.clocks.episodes) == ([0] * 3, [5] * 3)


def test_runs_are_restarted_with_the_probability_that_was_asked_for():
    runs, restarted = make_runs(steps=2, truncation_length=2, restart=0.3, total=40), 0
    runs.end(moved(runs))
    for _ in range(25):
        runs.end(moved(runs))
        restarted += sum(offset > 0 for offset in runs.clocks.offsets)
    assert abs(restarted - 300) < 4.5 * (1000 * 0.3 * 0.7) ** 0.5


def test_the_newest_ends_are_kept_and_those_of_diverged_runs_are_not():
    runs = make_runs(steps=2, truncation_length=2, restart=1e-9, total=1)
    for k in range(6):
        after = moved(runs)
        after.alive[0] = k != 4
        runs.end(after)
    origins = [kept.origin[1] for kept in runs.buffer.ends[0]]
    assert origins == [1, 2, 3, 5]


def test_restarted_runs_train_on():
    runs = make_runs(steps=4, truncation_length=2, restart=1.0)
    for outer_step in range(6):
        estimate("truncated", runs, outer_step)
    steps = runs.inner.states["theta"]["step"]
    ages = torch.tensor([a + o for a, o in zip(runs.clocks.ages, runs.clocks.offsets, strict=True)])
    assert torch.equal(steps, ages.float())
    assert steps.max() >= 8
