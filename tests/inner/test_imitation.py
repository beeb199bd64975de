"""Imitation: the distance by hand, where its gradient goes, and that a student can learn by it."""

import math

import pytest
import torch
from conftest import make_rule, same

from meta_train.estimators import MetaObjective, create_estimator
from meta_train.estimators.objectives import OBJECTIVES, Objective
from meta_train.inner.imitation import Teacher
from meta_train.inner.loop import InnerLoop
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.horizons import Horizons
from meta_train.inner.runs.runs import RunPlan, Runs
from meta_train.inner.state import InnerState, map_states, stack, start
from meta_train.inner.unroll import roll_out
from meta_train.runtime.distributed import DistributedContext
from meta_train.tasks import Quadratic

F64 = torch.float64
CPU = torch.device("cpu")
TASK = Quadratic(dimensions=3)


def vector(*values):
    return torch.tensor(values, dtype=F64)


def compare(teacher, gradients, ours, *, vectorize=False):
    """The distance of updates `ours` from those of SGD at the teacher's rate."""
    lead = torch.ones(len(next(iter(ours.values())))) if vectorize else torch.ones(())
    here = {key: 0.5 * torch.ones_like(value) for key, value in ours.items()}
    fresh = {key: teacher.rule.init_state(value) for key, value in here.items()}
    if vectorize:
        fresh = {key: {"step": torch.zeros_like(lead).double()} for key in here}
    inner = InnerState(here, {}, {}, lead.bool(), lead, teacher=fresh)
    moved = {key: here[key] + value for key, value in ours.items()}
    distance, states = teacher.compare(inner, gradients, lead.double(), moved, vectorize=vectorize)
    for state in states.values():
        assert torch.equal(state["step"], torch.ones_like(state["step"]))
    return distance


def sgd_teacher(lr=0.1):
    return Teacher(make_rule("sgd", F64), lr)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.0, 0.0), (math.e, 1.0), (1 / math.e**2, 4.0), (-1.0, 2.0), (-math.e, 3.0)],
)
def test_size_and_direction_count_apart(factor, expected):
    gradient = {"a": vector(3, 4)}
    distance = compare(sgd_teacher(), gradient, {"a": -0.1 * factor * gradient["a"]})
    assert float(distance) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("size", "counts"), [(1.1e-15, True), (0.9e-15, False)])
def test_a_step_of_less_than_1e_minus_15_does_not_count(size, counts):
    teacher, here = sgd_teacher(), {"a": vector(0)}
    fresh = {"a": teacher.rule.init_state(vector(0))}
    inner = InnerState(here, {}, {}, torch.tensor(True), torch.ones(()), teacher=fresh)
    moved = {"a": vector(-size)}
    distance, _ = teacher.compare(inner, {"a": vector(1)}, vector(1)[0], moved, vectorize=False)
    assert (float(distance) > 0) == counts


def test_an_angle_counts_by_its_cosine():
    distance = compare(sgd_teacher(1.0), {"a": vector(-1, 0)}, {"a": vector(0.6, 0.8)})
    assert float(distance) == pytest.approx(1 - 0.6)


def test_the_distance_is_the_mean_over_tensors_that_both_move():
    gradients = {"a": vector(3, 4), "b": vector(-1)[0], "c": vector(0, 0), "d": vector(1, 1)}
    ours = {"a": -math.e * vector(0.3, 0.4), "b": vector(-0.1)[0], "c": vector(1, 1)}
    ours["d"] = vector(0, 0)
    # 1 for the size of a, 2 for the direction of b; the teacher does not move c, we do not move d.
    assert float(compare(sgd_teacher(), gradients, ours)) == pytest.approx((1 + 2) / 2)


def test_where_nothing_moves_the_distance_is_zero_with_a_finite_gradient():
    weight = torch.zeros((), dtype=F64, requires_grad=True)
    distance = compare(sgd_teacher(), {"a": vector(3, 4)}, {"a": weight * vector(1, 1)})
    assert float(distance.detach()) == 0
    assert torch.autograd.grad(distance, weight)[0].isfinite()


def test_runs_are_compared_apart():
    gradient = torch.stack([vector(3, 4), vector(1, 0)])
    ours = -0.1 * gradient * vector(math.e, -1).unsqueeze(1)
    distances = compare(sgd_teacher(), {"a": gradient}, {"a": ours}, vectorize=True)
    torch.testing.assert_close(distances, vector(1, 2))


def make_runs(meta_parameters, teacher, steps=6, runs=3, **plan):
    plan = RunPlan(Horizons([[steps]]), dtype=F64, teacher=teacher, **plan)
    return Runs(meta_parameters, TASK, plan, indices=range(runs), total=runs, seed=0, device=CPU)


def settings_with(teacher):
    return LoopSettings(teacher=teacher, lr=0.02)


@pytest.mark.parametrize("name", ["sgd", "momentum", "rmsprop", "adam"])
def test_a_rule_is_at_no_distance_from_itself_and_at_the_logarithm_of_the_rates(name):
    rule = make_rule(name, F64)
    meta_parameters = MetaParameters(rule, {"theta": vector(1, 2, 3)})
    for factor in (1.0, 2.0):
        teacher = Teacher(make_rule(name, F64), 0.02 * factor)
        runs = make_runs(meta_parameters, teacher)
        window = runs.begin(settings_with(teacher), 0)
        rollout = roll_out(window.loop, window.inner, window.data, 6)
        expected = torch.full((6, 3), math.log(factor) ** 2, dtype=F64)
        torch.testing.assert_close(rollout.imitation, expected, rtol=1e-6, atol=1e-9)
        # The teacher follows the student's gradients: its state is that of the student.
        assert same(rollout.inner.teacher, rollout.inner.states)


def test_the_teachers_state_is_kept_from_window_to_window():
    rule = make_rule("adam", F64)
    teacher = Teacher(make_rule("adam", F64), 0.02)
    meta_parameters = MetaParameters(rule, {"theta": vector(1, 2, 3)})
    runs = make_runs(meta_parameters, teacher, truncation_length=2)
    runs.clocks.lengths = [6] * 3
    how = MetaObjective(OBJECTIVES["sum"], imitation=1.0)
    plain = MetaObjective(OBJECTIVES["sum"])
    for k in range(2):
        other = make_runs(meta_parameters, teacher, truncation_length=2)
        other.inner, other.clocks.ages = runs.inner, [1] * 3
        loop = settings_with(teacher)
        estimator = create_estimator("truncated")
        without = estimator.estimate(meta_parameters, loop, other, plain, k, DistributedContext())
        found = estimator.estimate(meta_parameters, loop, runs, how, k, DistributedContext())
        # No distance from itself, in the second window neither.
        torch.testing.assert_close(found.meta_loss, without.meta_loss, rtol=1e-12, atol=1e-12)
        steps = runs.inner.teacher["theta"]["step"]
        assert torch.equal(steps, torch.full((3,), 2.0 * (k + 1), dtype=F64))


def test_no_gradient_flows_through_the_teacher():
    # Even where the inner gradients, which both read, have second derivatives.
    rule = make_rule("lstm", F64, spread=0.2, hidden_sizes=(3,))
    teacher = Teacher(make_rule("momentum", F64), 0.02)
    problems = [TASK.sample(torch.Generator().manual_seed(seed), CPU) for seed in range(2)]
    inner = start(rule, problems, vectorize=True, teacher=teacher.rule)
    inner = map_states(lambda t: t.double() if t.is_floating_point() else t, inner)
    initialization = inner.parameters["theta"].clone().requires_grad_()
    batch = [t.double() for t in stack([problem.full() for problem in problems])]
    loop = InnerLoop(rule, TASK.loss, True, second_order=True, teacher=teacher)
    inner = InnerState(
        {"theta": initialization}, {}, inner.states, inner.alive, inner.first_loss, inner.teacher
    )
    after, _, distance = loop.step_and_compare(inner, batch)
    assert not after.teacher["theta"]["m"].requires_grad

    # By hand: the student's update has a gradient, the teacher's is a constant.
    w, y = batch
    update = after.parameters["theta"] - initialization
    theirs = (
        -0.02 * 2 * (w.mT @ (w @ initialization.unsqueeze(-1) - y.unsqueeze(-1))).squeeze(-1)
    ).detach()
    cosine = torch.cosine_similarity(update, theirs, dim=1, eps=0.0)
    expected = 1 - cosine + (update.norm(dim=1).log() - theirs.norm(dim=1).log()).square()
    torch.testing.assert_close(distance, expected)
    leaves = [initialization, *rule.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(distance.sum(), leaves, retain_graph=True),
        torch.autograd.grad(expected.sum(), leaves),
    )
    assert not list(teacher.rule.parameters())


def test_its_weight_adds_the_mean_distance_to_the_objective():
    rule = make_rule("lstm", F64, spread=0.2, hidden_sizes=(3,))
    meta_parameters, teacher = MetaParameters(rule), Teacher(make_rule("adam", F64), 0.02)
    found = []
    for weight in (0.0, 1.0, 2.0):
        for name in ("full", "es"):
            estimator = create_estimator(name)
            runs = make_runs(meta_parameters, teacher, copies=estimator.copies)
            how = MetaObjective(OBJECTIVES["log"], imitation=weight)
            loop = settings_with(teacher)
            found.append(
                estimator.estimate(meta_parameters, loop, runs, how, 0, DistributedContext())
            )
    for name in (0, 1):
        values, gradients = zip(
            *((f.meta_loss, f.gradients[0]) for f in found[name::2]), strict=True
        )
        torch.testing.assert_close(values[2] - values[0], 2 * (values[1] - values[0]))
        torch.testing.assert_close(gradients[2] - gradients[0], 2 * (gradients[1] - gradients[0]))
        assert values[1] > values[0] + 0.1


def test_a_student_that_only_imitates_comes_close_to_its_teacher():
    rule = make_rule("adam-lstm", F64, hidden_size=4)
    meta_parameters, teacher = MetaParameters(rule), Teacher(make_rule("adam", F64), 0.05)
    nothing = Objective("nothing", "", lambda losses: 0 * losses)
    nothing_else = MetaObjective(nothing, imitation=1.0)
    optimizer = torch.optim.Adam(meta_parameters.parameters(), 0.02)
    estimator, distances = create_estimator("full"), []
    for outer_step in range(60):
        runs = make_runs(meta_parameters, teacher, steps=5)
        loop = LoopSettings(teacher=teacher)
        found = estimator.estimate(
            meta_parameters, loop, runs, nothing_else, outer_step, DistributedContext()
        )
        for weight, gradient in zip(meta_parameters.parameters(), found.gradients, strict=True):
            weight.grad = gradient
        optimizer.step()
        distances.append(float(found.meta_loss))
    assert sum(distances[-5:]) < 0.05 * sum(distances[:5])
