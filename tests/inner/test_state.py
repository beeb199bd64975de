"""The state of inner training: names, stacking, and the same structure around other tensors."""

import pytest
import torch
from conftest import make_rule, same

from meta_train.inner.state import map_states, stack, stack_states, start
from meta_train.tasks import Quadratic
from meta_train.tasks.reparametrized import Reparametrized

CPU = torch.device("cpu")
TASK = Reparametrized(Quadratic(dimensions=3), 1.0)


def problems(count):
    return [TASK.sample(torch.Generator().manual_seed(seed), CPU) for seed in range(count)]


def make_inner(count=2):
    rule, teacher = make_rule("lstm"), make_rule("adam")
    return start(rule, problems(count), vectorize=True, teacher=teacher)


def test_it_starts_with_fresh_states_and_no_loss_seen():
    inner = make_inner()
    assert inner.parameters["theta"].shape == (2, 3)
    assert inner.buffers["scale of theta"].shape == (2,)
    assert inner.states["theta"]["h0"].shape == (2, 3, 20)
    assert inner.teacher["theta"].keys() == {"step", "m", "v"}
    assert inner.alive.all()
    assert inner.first_loss.isnan().all()


def test_runs_at_once_are_runs_stacked():
    together = make_inner(3)
    alone = [start(make_rule("lstm"), [p], vectorize=False) for p in problems(3)]
    assert same(together.parameters, stack_states(alone).parameters)
    assert same(together.buffers, stack_states(alone).buffers)
    assert alone[0].teacher == {}


def test_every_tensor_has_a_name_of_its_own_and_goes_back_under_it():
    inner = make_inner()
    named = inner.named_tensors()
    names = [name for name, _ in named]
    assert len(set(names)) == len(names)
    for name in ("parameters/theta", "states/theta/c1", "teacher/theta/v", "alive", "first_loss"):
        assert name in names
    other = inner.with_tensors({name: tensor + 1 for name, tensor in reversed(named)})
    assert same(dict(other.named_tensors()), {name: tensor + 1 for name, tensor in named})
    assert same(dict(inner.with_tensors(dict(named)).named_tensors()), dict(named))


def test_states_are_mapped_side_by_side():
    inner = make_inner()
    doubled = map_states(lambda a, b: torch.cat([a, b]), inner, inner)
    assert same(
        dict(doubled.named_tensors()),
        {name: torch.cat([tensor, tensor]) for name, tensor in inner.named_tensors()},
    )


def test_detached_it_has_the_same_numbers_and_no_history():
    inner = make_inner()
    leaf = torch.ones((), requires_grad=True)
    linked = map_states(lambda t: t * leaf if t.is_floating_point() else t, inner)
    assert linked.teacher["theta"]["m"].requires_grad
    detached = linked.detach()
    assert not any(tensor.requires_grad for _, tensor in detached.named_tensors())
    assert same(dict(detached.named_tensors()), dict(inner.named_tensors()))


def test_batches_of_any_structure_are_stacked():
    trees = [{"x": torch.full((2,), k), "y": (torch.tensor(k),)} for k in range(3)]
    stacked = stack(trees)
    assert torch.equal(stacked["x"], torch.tensor([[0, 0], [1, 1], [2, 2]]))
    assert torch.equal(stacked["y"][0], torch.arange(3))


def test_a_teacher_with_another_state_is_no_part_of_the_students():
    inner = make_inner()
    assert "teacher/theta/m" in dict(inner.named_tensors())
    assert "states/theta/m" not in dict(inner.named_tensors())


def test_several_problems_one_by_one_are_refused():
    with pytest.raises(ValueError, match="2 problems at once need vectorize=True"):
        start(make_rule("sgd"), problems(2), vectorize=False)
