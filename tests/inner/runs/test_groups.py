"""Groups of runs: tasks that change in time, units of loss, resuming, several processes."""

import json
import math

import pytest
import torch
from conftest import make_rule, same

from meta_train.estimators import MetaObjective, combine, create_estimator
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.groups import Groups
from meta_train.inner.runs.horizons import Horizons
from meta_train.inner.runs.runs import RunPlan
from meta_train.runtime.distributed import DistributedContext
from meta_train.tasks import Quadratic, SampledTask, TaskFamily

CPU = torch.device("cpu")
TASK = Quadratic(dimensions=3)


class AnySize(TaskFamily):
    """Quadratics of one to nine dimensions."""

    def sample_task(self, generator):
        size = 1 + int(torch.randint(9, (), generator=generator))
        return SampledTask("even" if size % 2 == 0 else "odd", Quadratic(dimensions=size))

    def held_out(self):
        return {"same": TASK}


def make_groups(family=TASK, *, horizons=((4,),), groups=2, runs=3, distributed=None, **settings):
    plan = {
        "truncation_length": 2,
        **{k: settings.pop(k) for k in ("truncation_length", "restart") if k in settings},
    }
    meta_parameters = MetaParameters(make_rule("lstm", spread=0.2, hidden_sizes=(3,)))
    return Groups(
        meta_parameters,
        family,
        RunPlan(Horizons(horizons), **plan),
        groups=groups,
        runs=runs,
        param_rescale_range=settings.get("param_rescale_range", 0.0),
        loss_rescale_range=settings.get("loss_rescale_range", 0.0),
        seed=settings.get("seed", 0),
        distributed=distributed or DistributedContext(),
        device=CPU,
    )


def take(groups, outer_step, progress=0.0):
    """The estimates of an outer step."""
    groups.prepare(outer_step, progress)
    estimator = create_estimator("full" if groups.plan.truncation_length is None else "truncated")
    loop = LoopSettings(lr=0.02)
    how = MetaObjective(OBJECTIVES["sqrt"])
    return [
        estimator.estimate(
            groups.meta_parameters, loop, runs, how, outer_step, DistributedContext()
        )
        for runs in groups.runs
    ]


def sizes(groups):
    return [member.task.dimensions for member in groups.members]


def test_groups_of_one_task_differ_in_their_problems():
    groups = make_groups()
    first, second = (runs.inner.parameters["theta"] for runs in groups.runs)
    assert not torch.equal(first, second)
    assert [member.name for member in groups.members] == ["quadratic"] * 2


def test_a_single_task_stays():
    groups = make_groups()
    before = list(groups.runs)
    for outer_step in range(12):
        take(groups, outer_step)
    assert groups.runs == before
    assert groups.generations == [0, 0]


def test_members_of_a_family_change_one_group_after_another():
    groups = make_groups(AnySize(), groups=4)
    life = 4 * 4 // 2  # four lengths of 4 steps, in windows of 2
    changed = {}
    before = list(groups.generations)
    for outer_step in range(2 * life):
        take(groups, outer_step)
        for group, (old, new) in enumerate(zip(before, groups.generations, strict=True)):
            if old != new:
                assert new == old + 1
                changed.setdefault(outer_step, []).append(group)
        before = list(groups.generations)
    assert changed == {2: [3], 4: [2], 6: [1], 8: [0], 10: [3], 12: [2], 14: [1]}
    assert len(set(sizes(groups))) > 1


def test_with_whole_runs_every_outer_step_has_new_tasks():
    groups, seen = make_groups(AnySize(), truncation_length=None, groups=1), []
    for outer_step in range(12):
        take(groups, outer_step)
        assert groups.generations == [outer_step]
        seen += sizes(groups)
    assert len(set(seen)) > 3


def test_with_restarts_whole_runs_keep_their_task_long_enough_to_go_on():
    groups, offsets = make_groups(AnySize(), truncation_length=None, groups=1, restart=1.0), []
    for outer_step in range(8):
        take(groups, outer_step)
        offsets.append(max(groups.runs[0].clocks.offsets))
    assert groups.generations == [1]
    assert offsets[0] == offsets[4] == 0
    assert min(offsets[1:4]) >= 4


def test_a_new_task_begins_at_the_lengths_of_its_time():
    groups = make_groups(AnySize(), horizons=((2,), (8,)), groups=1)
    life = 4 * 8 // 2
    groups.prepare(life, 0.9)
    assert groups.generations == [1]
    assert max(groups.runs[0].clocks.lengths) == 8
    assert groups.mean_horizon() > 2


def test_members_are_told_apart_by_their_family():
    groups = make_groups(AnySize(), groups=8)
    for member in groups.members:
        assert member.name == ("even" if member.task.dimensions % 2 == 0 else "odd")


def resumed(groups, like):
    """The same groups, from what the old ones saved, through what a checkpoint can hold."""
    tensors, facts = groups.state_dict()
    like.load_state_dict({k: v.clone() for k, v in tensors.items()}, json.loads(json.dumps(facts)))
    return like


@pytest.mark.parametrize("truncation_length", [2, None], ids=["windows", "whole"])
@pytest.mark.parametrize("family", [TASK, AnySize()], ids=["task", "family"])
def test_resumed_groups_equal_unbroken_ones(family, truncation_length):
    settings = {
        "truncation_length": truncation_length,
        "restart": 0.5,
        "param_rescale_range": 1.0,
        "loss_rescale_range": 1.0,
    }
    groups = make_groups(family, **settings)
    for outer_step in range(7):
        take(groups, outer_step)
    again = resumed(groups, make_groups(family, **settings))
    for outer_step in range(7, 13):
        for found, expected in zip(take(again, outer_step), take(groups, outer_step), strict=True):
            assert same(found.gradients, expected.gradients)
        assert again.generations == groups.generations
    left, right = again.state_dict(), groups.state_dict()
    assert same(left[0], right[0])
    assert left[1] == right[1]


def test_what_was_saved_does_not_change_when_groups_go_on():
    groups = make_groups(AnySize())
    take(groups, 0)
    _, facts = groups.state_dict()
    before = json.dumps(facts)
    for outer_step in range(1, 9):
        take(groups, outer_step)
    assert json.dumps(facts) == before


def test_a_checkpoint_of_another_number_of_groups_is_refused():
    tensors, facts = make_groups(groups=2).state_dict()
    with pytest.raises(
        ValueError, match="the checkpoint has 2 groups of runs, the settings ask for 3"
    ):
        make_groups(groups=3).load_state_dict(tensors, facts)


def test_processes_share_the_runs_of_every_group():
    whole = make_groups(AnySize(), runs=5)
    parts = [
        make_groups(AnySize(), runs=5, distributed=DistributedContext(rank, 2)) for rank in range(2)
    ]
    assert [part.runs[0].indices for part in parts] == [[0, 1], [2, 3, 4]]
    for outer_step in range(10):
        expected = combine(take(whole, outer_step))
        together = combine([e for part in parts for e in take(part, outer_step)])
        torch.testing.assert_close(together.gradients, expected.gradients, rtol=1e-4, atol=1e-6)
        assert together.counted == expected.counted


def first_losses(groups):
    take(groups, 0)
    return torch.cat([runs.inner.first_loss for runs in groups.runs])


def test_each_problems_loss_is_in_units_of_its_own():
    plain = first_losses(make_groups(horizons=((40,),)))
    ratios = first_losses(make_groups(horizons=((40,),), loss_rescale_range=2.0)) / plain
    assert (ratios.log().abs() <= 2.0 + 1e-4).all()
    assert ratios.log().std() > 0.5
    assert len(set(ratios.tolist())) == len(ratios)


def test_units_of_parameters_leave_the_loss_alone():
    plain = first_losses(make_groups(horizons=((40,),)))
    torch.testing.assert_close(
        first_losses(make_groups(horizons=((40,),), param_rescale_range=2.0)), plain
    )


def test_both_units_can_be_drawn_together_for_a_family():
    groups = make_groups(AnySize(), param_rescale_range=1.0, loss_rescale_range=1.0)
    for found in take(groups, 0):
        assert math.isfinite(found.meta_loss)
        assert all(gradient.isfinite().all() for gradient in found.gradients)


def test_a_rescaled_task_is_named_as_the_user_wrote_it():
    groups = make_groups(param_rescale_range=1.0)
    with pytest.raises(ValueError, match="^task Quadratic has no validation data"):
        groups.runs[0].stream(0, "validation")


def test_shapes_are_those_of_the_first_member():
    shapes = make_groups(AnySize()).shapes()
    assert shapes == {"theta": [make_groups(AnySize()).members[0].task.dimensions]}


def test_every_task_is_told_which_outer_step_begins():
    class Told(Quadratic):
        def begin_outer_step(self, outer_step):
            told.append(outer_step)

    told: list[int] = []
    groups = make_groups(Told(dimensions=3), groups=2)
    for outer_step in (0, 1, 7):
        groups.prepare(outer_step, 0.5)
    assert told == [0, 0, 1, 1, 7, 7]


def test_whole_runs_of_a_new_task_are_drawn_once_for_an_outer_step():
    drawn = []

    class Counted(Quadratic):
        def begin_outer_step(self, outer_step):
            object.__setattr__(self, "told", outer_step)

        def sample(self, generator, device):
            drawn.append((vars(self).get("told"), generator.initial_seed()))
            return super().sample(generator, device)

    class Family(TaskFamily):
        def sample_task(self, generator):
            return SampledTask("counted", Counted(dimensions=3))

        def held_out(self):
            return {"same": TASK}

    groups = make_groups(Family(), groups=1, runs=3, truncation_length=None)
    take(groups, 0)
    for outer_step in (1, 2, 5):
        drawn.clear()
        take(groups, outer_step)
        assert [told for told, _ in drawn] == [outer_step] * 3
        assert len({seed for _, seed in drawn}) == 3
        # Asked again for the same outer step, they begin anew with the same problems.
        first = [problem.parameters for problem in groups.runs[0].problems]
        begun = groups.runs[0].begin(LoopSettings(lr=0.02), outer_step).inner.parameters["theta"]
        assert same([problem.parameters for problem in groups.runs[0].problems], first)
        assert torch.equal(begun, torch.stack([own["theta"] for own in first]))
