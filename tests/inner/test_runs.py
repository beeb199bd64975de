"""Runs in progress: ages, ends, the restart buffer, saving and going on."""

import json

import pytest
import torch
from conftest import make_rule, same

from meta_train.estimators import MetaObjective, create_estimator
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.inner.horizons import Horizons
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs import RunPlan, Runs
from meta_train.inner.state import map_states
from meta_train.runtime.distributed import DistributedContext
from meta_train.tasks import Quadratic
from meta_train.tasks.base import Problem, Task

CPU = torch.device("cpu")
LOOP = LoopSettings(lr=0.1)


def small_meta_parameters(initialization=False):
    rule = make_rule("lstm", spread=0.2, hidden_sizes=(3,))
    return MetaParameters(rule, {"theta": torch.ones(3)} if initialization else None)


def make_runs(
    meta_parameters=None, steps=4, *, total=3, indices=None, seed=0, progress=0.0, **plan
):
    horizons = steps if isinstance(steps, Horizons) else Horizons([[steps]])
    return Runs(
        meta_parameters or small_meta_parameters(),
        Quadratic(dimensions=3),
        RunPlan(horizons, **plan),
        indices=range(total) if indices is None else indices,
        total=total,
        seed=seed,
        device=CPU,
        progress=progress,
    )


def estimate(name, runs, outer_step=0, **settings):
    estimator = create_estimator(name, **settings)
    how = MetaObjective(OBJECTIVES["sqrt"])
    return estimator.estimate(
        runs.meta_parameters, LOOP, runs, how, outer_step, DistributedContext()
    )


def begin(runs, outer_step=0, **how):
    return runs.begin(LOOP, outer_step, **how)


def moved(runs, by=1.0):
    """A state that is told apart from the one before."""
    return map_states(lambda t: t + by if t.is_floating_point() else t.clone(), runs.inner)


def test_the_first_ends_are_spread_over_the_runs():
    runs = make_runs(steps=12, truncation_length=2, total=4)
    assert runs.clocks.lengths == [3, 6, 9, 12]
    assert make_runs(steps=12, truncation_length=2, total=4, indices=[2, 3]).clocks.lengths == [
        9,
        12,
    ]
    assert make_runs(steps=12, truncation_length=6, total=4).clocks.lengths == [6, 6, 9, 12]


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
    assert (runs.clocks.ages, runs.clocks.episodes, runs.clocks.lengths) == (
        [0, 0, 2],
        [1, 1, 0],
        [6, 6, 6],
    )
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
    assert runs._totals().tolist() == [6, 16, 6, 16]
    whole = make_runs(steps=5, total=2)
    begin(whole)
    assert whole._totals().tolist() == [5, 5]


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
    assert runs._totals().tolist() == [8.0] * 2 * copies
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
    assert runs._totals().tolist() == [8.0] * 6


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
