"""Counts of inner runs: ages, lengths, offsets, episodes and origins."""

import pytest

from meta_train.inner.runs.clocks import RunClocks
from meta_train.inner.runs.restart_buffer import Kept


def make_clocks(lengths, indices=None, episode=0):
    clocks = RunClocks(range(len(lengths)) if indices is None else indices, episode)
    clocks.lengths = list(lengths)
    return clocks


def test_at_first_every_run_has_a_problem_of_its_own():
    clocks = RunClocks([4, 7], episode=3)
    assert clocks.origins == [(4, 3), (7, 3)]
    assert clocks.episodes == [3, 3]
    assert (clocks.lengths, clocks.ages, clocks.offsets) == ([0, 0], [0, 0], [0, 0])


def test_a_run_is_over_at_its_length():
    clocks = make_clocks([2, 3, 4])
    clocks.advance(1)
    assert [clocks.over(run) for run in range(3)] == [False, False, False]
    clocks.advance(2)
    assert [clocks.over(run) for run in range(3)] == [True, True, False]


def test_a_new_episode_begins_with_a_problem_of_its_own():
    clocks = make_clocks([2, 2], indices=[4, 7])
    clocks.advance(2)
    clocks.begin(1, 5)
    assert clocks.origins == [(4, 0), (7, 5)]
    assert (clocks.ages, clocks.offsets, clocks.episodes) == ([2, 0], [0, 0], [0, 5])


def test_an_episode_that_continues_an_earlier_end_counts_its_steps():
    clocks = make_clocks([2, 6])
    clocks.begin(1, 5, Kept(origin=(1, 2), age=30, inner=None))
    clocks.advance(2)
    assert clocks.origins == [(0, 0), (1, 2)]
    assert [clocks.taken(run) for run in range(2)] == [2, 32]
    clocks.begin(1, 6)
    assert (clocks.origins[1], clocks.taken(1)) == ((1, 6), 0)


@pytest.mark.parametrize(("window", "planned"), [(1, [5, 16]), (4, [8, 18]), (5, [5, 20])])
def test_planned_steps_are_whole_windows_after_the_earlier_ones(window, planned):
    clocks = make_clocks([5, 6])
    clocks.begin(1, 1, Kept(origin=(1, 0), age=10, inner=None))
    assert clocks.planned(window) == planned


def test_finished_runs_are_as_old_as_they_are_long():
    clocks = make_clocks([2, 3])
    clocks.finish()
    clocks.lengths[0] = 9  # a list of its own
    assert clocks.ages == [2, 3]


def test_saved_counts_are_restored_run_by_run():
    clocks = make_clocks([5, 6])
    clocks.begin(1, 7, Kept(origin=(1, 2), age=30, inner=None))
    clocks.advance(4)
    saved = clocks.state_dict(1)
    assert saved == {"episode": 7, "origin": [1, 2], "age": 4, "offset": 30, "length": 6}
    other = make_clocks([1, 1])
    other.load_state_dict(0, saved)
    assert other.state_dict(0) == saved
    assert other.origins == [(1, 2), (1, 0)]  # tuples, as drawn ones
