"""Runs in progress: ages, ends, windows, problems."""

import pytest
import torch
from conftest import same
from run_cases import CPU, LOOP, begin, make_runs, moved, small_meta_parameters

from meta_train.inner.runs.horizons import Horizons
from meta_train.inner.runs.runs import RunPlan, Runs
from meta_train.inner.state import map_states
from meta_train.runtime.seeding import derive_seed
from meta_train.tasks.base import Problem, Task


def test_the_first_ends_are_spread_over_the_runs():
    runs = make_runs(steps=12, truncation_length=2, total=4)
    assert runs.clocks.lengths == [3, 6, 9, 12]
    part = make_runs(steps=12, truncation_length=2, total=4, indices=[2, 3])
    assert part.clocks.lengths == [9, 12]
    assert make_runs(steps=12, truncation_length=6, total=4).clocks.lengths == [6, 6, 9, 12]


def test_runs_in_other_processes_draw_other_numbers_inside_their_loss():
    def seed(indices):
        return begin(make_runs(total=4, indices=indices), outer_step=7).data.seed

    assert seed([0, 1]) == seed([0, 1, 2, 3]) == derive_seed(0, "randomness", 7)
    assert len({seed([0]), seed([1]), seed([2]), seed([2, 3])}) == 3  # else dropout masks recur


def test_planned_steps_are_exact_for_a_rule_in_half_precision():
    meta_parameters = small_meta_parameters()
    meta_parameters.rule.to(torch.bfloat16)  # in which 257 is 256
    runs = make_runs(meta_parameters, steps=257)
    begin(runs)
    assert runs.bind(LOOP).total_steps.tolist() == [257.0] * 3


def test_a_run_that_reaches_its_length_or_diverges_is_replaced():
    runs = make_runs(steps=6, truncation_length=2, total=3)
    runs.clocks.lengths = [2, 6, 6]
    before = runs.inner.parameters["theta"].clone()
    after = moved(runs)
    after.alive[1] = False
    assert runs.end(after) == 1
    clocks = runs.clocks
    assert (clocks.ages, clocks.episodes, clocks.lengths) == ([0, 0, 2], [1, 1, 0], [6, 6, 6])
    starts = torch.stack([problem.parameters["theta"] for problem in runs.problems])
    assert torch.equal(runs.inner.parameters["theta"][:2], starts[:2])
    assert torch.equal(runs.inner.parameters["theta"][2], before[2] + 1)
    assert not torch.equal(starts[:2], before[:2])
    assert runs.inner.alive.all()
    assert runs.inner.first_loss.isnan().all()


def test_the_state_that_was_handed_over_is_not_written_to():
    runs = make_runs(steps=2, truncation_length=2)
    after = moved(runs)
    after.alive[0] = False
    kept = dict(map_states(torch.clone, after).named_tensors())
    runs.end(after)
    assert same(dict(after.named_tensors()), kept)


def test_rows_are_apart_even_where_all_runs_shared_one():
    runs = make_runs(steps=6, truncation_length=2)
    runs.clocks.lengths = [2, 6, 6]
    after = map_states(lambda t: t[:1].expand_as(t), moved(runs))
    runs.end(after)
    theta = runs.inner.parameters["theta"]
    assert torch.equal(theta[1:], after.parameters["theta"][1:])
    assert not torch.equal(theta[0], theta[1])


def test_whole_runs_all_begin_anew_at_one_length():
    runs = make_runs(steps=Horizons([[3, 9]]))
    lengths = set()
    for outer_step in range(8):
        length = begin(runs, outer_step).steps
        lengths.add(length)
        assert runs.clocks.lengths == [length] * 3
        assert runs.clocks.ages == [0] * 3
        assert runs.clocks.origins == [(k, outer_step) for k in range(3)]
        assert runs.end(moved(runs)) == 0
        assert runs.clocks.ages == [length] * 3
    assert lengths == {3, 9}


def test_runs_are_complete_before_their_first_window():
    for truncation_length in (None, 2):
        runs = make_runs(truncation_length=truncation_length)
        before = dict(runs.inner.named_tensors())
        window = begin(runs)
        assert same(dict(window.inner.named_tensors()), before)
        assert window.steps == (4 if truncation_length is None else 2)
        assert window.just_started.tolist() == [True] * 3


def test_a_window_holds_what_was_carried_and_its_steps_are_bound_to_the_runs():
    runs = make_runs(steps=6, truncation_length=2)
    runs.clocks.lengths = [6] * 3
    runs.end(moved(runs), {"noise": torch.ones(3, 2)})
    window = begin(runs, 1, outer_data="fresh", last_only=True)
    assert torch.equal(window.carried["noise"], torch.ones(3, 2))
    assert window.loop.lr == 0.1
    assert window.loop.total_steps.tolist() == [6] * 3
    assert window.data.last_only
    assert window.data.outer_batches is not None
    assert window.just_started.tolist() == [False] * 3
    runs.clocks.lengths = [4, 6, 6]
    runs.end(moved(runs), window.carried)
    assert torch.equal(runs.carried["noise"], torch.tensor([[0.0, 0], [1, 1], [1, 1]]))
    assert torch.equal(window.carried["noise"], torch.ones(3, 2))


def test_copies_share_problems_and_stand_copy_after_copy():
    for truncation_length in (None, 2):
        runs = make_runs(copies=2, truncation_length=truncation_length)
        if truncation_length is None:
            begin(runs)
        starts = torch.stack([problem.parameters["theta"] for problem in runs.problems])
        assert torch.equal(runs.inner.parameters["theta"], torch.cat([starts, starts]))
        after = moved(runs)
        after.alive[4] = False  # the second copy of run 1
        kept = after.parameters["theta"].clone()
        if truncation_length is not None:
            runs.clocks.lengths = [4, 4, 4]
            assert runs.end(after) == 1
            assert runs.clocks.episodes == [0, 1, 0]
            start = runs.problems[1].parameters["theta"]
            kept[1] = kept[4] = start
            assert torch.equal(runs.inner.parameters["theta"], kept)
        else:
            assert runs.end(after) == 1


def test_planned_steps_are_whole_windows_after_what_came_before():
    runs = make_runs(steps=5, truncation_length=2, total=2, copies=2)
    runs.clocks.lengths, runs.clocks.offsets = [5, 6], [0, 10]
    assert runs._planned_steps().tolist() == [6, 16, 6, 16]
    whole = make_runs(steps=5, total=2)
    begin(whole)
    assert whole._planned_steps().tolist() == [5, 5]


def test_lengths_follow_the_progress_of_meta_training():
    stages = Horizons([[2], [8]])
    early, late = (
        make_runs(steps=stages, truncation_length=2, total=1, progress=p) for p in (0.0, 0.9)
    )
    assert (early.clocks.lengths, late.clocks.lengths) == ([2], [8])
    early.progress = 0.9
    early.end(moved(early))
    assert early.clocks.lengths == [8]


def test_problems_and_batches_do_not_depend_on_who_holds_a_run():
    whole, part = (
        make_runs(total=4, truncation_length=2),
        make_runs(total=4, indices=[3], truncation_length=2),
    )
    assert same(part.problems[0].parameters, whole.problems[3].parameters)
    assert same([t[3] for t in whole.stream(5).next()], [t[0] for t in part.stream(5).next()])
    other = make_runs(total=4, truncation_length=2, seed=1)
    assert not same(other.problems[3].parameters, whole.problems[3].parameters)


def test_validation_data_of_a_task_without_any_is_refused():
    with pytest.raises(ValueError, match="task Quadratic has no validation data"):
        make_runs(truncation_length=2).stream(0, "validation")


class Shrinking(Task):
    """A task that breaks its contract: the third problem has one coordinate, not three."""

    def __init__(self):
        self.drawn = 0

    def sample(self, generator, device):
        self.drawn += 1
        start = {"x": torch.ones(1 if self.drawn == 3 else 3)}
        batch = torch.zeros(())
        return Problem(start, {}, self.loss, lambda _: batch, lambda: batch)

    @staticmethod
    def loss(parameters, buffers, batch):
        return (parameters["x"] - batch).square().sum(), buffers


@pytest.mark.parametrize("count", [2, 3])
def test_a_problem_with_other_tensors_is_refused_by_name(count):
    """Of two runs, the third problem replaces one: it would be broadcast into that one's row."""
    plan = RunPlan(Horizons([[4]]), truncation_length=2)
    where = {"indices": range(count), "total": count, "seed": 0, "device": CPU}
    message = r"same tensors: parameter x is \[1\] in one and \[3\] in another"
    if count == 3:
        with pytest.raises(ValueError, match=message):
            Runs(small_meta_parameters(), Shrinking(), plan, **where)
        return
    runs = Runs(small_meta_parameters(), Shrinking(), plan, **where)
    begin(runs)
    with pytest.raises(ValueError, match=message):
        runs.end(moved(runs))
