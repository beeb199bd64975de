"""The meta-parameters, and how a learned initialisation reaches the inner runs."""

import pytest
import torch
from conftest import make_rule

from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.horizons import Horizons
from meta_train.inner.runs.runs import RunPlan, Runs
from meta_train.tasks import Quadratic, RandomMLP

CPU = torch.device("cpu")
INITIALIZATION = torch.tensor([1.0, 2.0, 3.0])


def make_runs(meta_parameters, task=None, truncation_length=None, **plan):
    plan = RunPlan(Horizons([[4]]), truncation_length=truncation_length, **plan)
    task = task or Quadratic(dimensions=3)
    return Runs(meta_parameters, task, plan, indices=range(2), total=2, seed=0, device=CPU)


def begin(runs):
    return runs.begin(LoopSettings(), 0)


def test_weights_of_the_rule_and_the_initialisation_are_the_meta_parameters():
    meta_parameters = MetaParameters(
        make_rule("lstm"), {"a.b": INITIALIZATION, "c": torch.tensor(4.0)}
    )
    names = [name for name, _ in meta_parameters.named_parameters()]
    assert names[-2:] == ["values.0", "values.1"]
    assert all(name.startswith("rule.") for name in names[:-2])
    assert list(meta_parameters.initialization()) == ["a.b", "c"]
    assert meta_parameters.initialization()["a.b"] is meta_parameters.values[0]
    assert meta_parameters.learns_initialization
    assert not MetaParameters(make_rule("lstm")).learns_initialization
    before = INITIALIZATION.clone()
    meta_parameters.values[0].data += 1
    assert torch.equal(INITIALIZATION, before)  # its own copy


def test_meta_parameters_without_tensors_is_refused():
    with pytest.raises(ValueError, match="rule SGD has no weights to meta-train"):
        MetaParameters(make_rule("sgd"))
    MetaParameters(make_rule("sgd"), {"theta": INITIALIZATION})


def test_runs_start_at_the_learned_initialisation():
    runs = make_runs(MetaParameters(make_rule("sgd"), {"theta": INITIALIZATION}))
    window = begin(runs)
    assert torch.equal(runs.inner.parameters["theta"], INITIALIZATION.expand(2, 3))
    assert not runs.inner.parameters["theta"].requires_grad
    assert torch.equal(window.state_with_grad().parameters["theta"], INITIALIZATION.expand(2, 3))


def test_without_one_they_start_where_their_problems_say():
    runs = make_runs(MetaParameters(make_rule("lstm")))
    window = begin(runs)
    starts = torch.stack([problem.parameters["theta"] for problem in runs.problems])
    assert torch.equal(runs.inner.parameters["theta"], starts)
    assert window.state_with_grad() is runs.inner


def test_the_gradient_reaches_it_from_runs_that_begin_now_alone():
    meta_parameters = MetaParameters(make_rule("sgd"), {"theta": INITIALIZATION})
    runs = make_runs(meta_parameters, truncation_length=2)
    runs.clocks.ages = [2, 0]
    runs.inner.parameters["theta"].add_(10)
    linked = begin(runs).state_with_grad()
    assert torch.equal(
        linked.parameters["theta"], torch.stack([INITIALIZATION + 10, INITIALIZATION])
    )
    (gradient,) = torch.autograd.grad(
        (linked.parameters["theta"] * INITIALIZATION).sum(), meta_parameters.values[0]
    )
    assert torch.equal(gradient, INITIALIZATION)
    runs.clocks.ages, runs.clocks.offsets = (
        [2, 0],
        [0, 6],
    )  # begun elsewhere: gone on from a kept state
    assert begin(runs).just_started.tolist() == [False, False]


@pytest.mark.parametrize(
    ("initialization", "message"),
    [
        ({"other": INITIALIZATION}, r"has \['other'\], which the task does not have"),
        (
            {"theta": INITIALIZATION, "other": INITIALIZATION},
            r"has \['other'\], which the task does not have",
        ),
        ({"theta": INITIALIZATION[:2]}, r"'theta' has shape \[2\], the task's has \[3\]"),
    ],
)
def test_an_initialisation_of_another_task_is_refused(initialization, message):
    with pytest.raises(ValueError, match=message):
        make_runs(MetaParameters(make_rule("sgd"), initialization))


def test_tensors_that_it_lacks_start_as_their_problems_say():
    member = RandomMLP().sample_task(torch.Generator().manual_seed(0)).task
    problem = member.sample(torch.Generator().manual_seed(0), CPU)
    first, *rest = problem.parameters
    initialization = {name: problem.parameters[name] + 1 for name in rest}
    runs = make_runs(MetaParameters(make_rule("sgd"), initialization), member)
    window = begin(runs)
    own = torch.stack([one.parameters[first] for one in runs.problems])
    assert torch.equal(window.state_with_grad().parameters[first], own)
    for name in rest:
        assert torch.equal(window.state_with_grad().parameters[name][1], initialization[name])


def test_the_order_of_its_tensors_does_not_matter():
    member = RandomMLP().sample_task(torch.Generator().manual_seed(0)).task
    problem = member.sample(torch.Generator().manual_seed(0), CPU)
    backwards = dict(reversed(problem.parameters.items()))
    runs = make_runs(MetaParameters(make_rule("sgd"), backwards), member, truncation_length=2)
    assert list(runs.inner.parameters) == list(problem.parameters)
    for _ in range(2):
        runs.end(runs.inner)
    assert runs.clocks.episodes == [1, 1]  # both were replaced
    for name, value in problem.parameters.items():
        assert torch.equal(runs.inner.parameters[name], torch.stack([value, value]))
