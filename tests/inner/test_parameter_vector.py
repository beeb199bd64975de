"""Inner training on one vector is that on many tensors, in values and in derivatives."""

from dataclasses import replace

import pytest
import torch
from conftest import make_rule
from torch import nn

from meta_train.estimators import differentiate as module
from meta_train.estimators.base import MetaObjective
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.inner.batches import BatchStream, InnerData
from meta_train.inner.imitation import create_teacher
from meta_train.inner.loop import InnerLoop
from meta_train.inner.parameter_vector import JOINED, can_join, join, split
from meta_train.inner.state import start
from meta_train.tasks import Problem

SETTINGS = {
    "lstm": {"hidden_sizes": (3, 2)},
    "gated-lstm": {"hidden_size": 3},
    "momentum-gated-lstm": {"hidden_size": 3},
    "adam-lstm": {"hidden_size": 3},
}
OBJECTIVE = MetaObjective(OBJECTIVES["sum"])


class OneBatch(BatchStream):
    """The same batch, always."""

    def __init__(self, batch):
        self.batch = batch

    def next(self):
        return self.batch

    def mark(self):
        return None

    def rewind(self, mark):
        pass


def make_problem():
    """A network of four tensors, a fixed one and a buffer that counts."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    inputs, targets = torch.randn(8, 3).double(), torch.randn(8, 2).double()
    inputs[:, 1] = 0  # idle coordinates

    def loss(parameters, buffers, batch):
        own = {key: value for key, value in parameters.items() if key != "scale"}
        outputs = torch.func.functional_call(network, own, batch[0])
        found = (parameters["scale"] * outputs - batch[1]).square().mean()
        return found, {"count": buffers["count"] + 1}

    parameters = {key: value.detach() for key, value in network.named_parameters()}
    fixed = {"scale": torch.tensor(1.5).double()}
    batch = inputs, targets
    drawn = Problem(parameters, {"count": torch.zeros(())}, loss, None, lambda: batch, fixed=fixed)
    return drawn, InnerData(OneBatch(batch), None, 0)


def derivative(name, second_order, checkpoint_steps):
    rule = make_rule(name, torch.float64, spread=0.2, **SETTINGS[name])
    problem, data = make_problem()
    inner = start(rule, [problem], vectorize=False)
    leaves = [*rule.parameters(), *inner.parameters.values(), *inner.fixed.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    loop = InnerLoop(rule, problem.loss, False, weight_decay=0.1, second_order=second_order)
    return module.differentiate(loop, inner, data, 5, OBJECTIVE, leaves, checkpoint_steps)


@pytest.mark.parametrize("checkpoint_steps", [None, 2])
@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_one_vector_changes_no_number(name, second_order, checkpoint_steps, monkeypatch):
    joined = []
    monkeypatch.setattr(module, "join", lambda *given: joined.append(1) or join(*given))
    found = derivative(name, second_order, checkpoint_steps)
    assert joined == [1]
    monkeypatch.setattr(module, "can_join", lambda loop, inner: False)
    expected = derivative(name, second_order, checkpoint_steps)
    assert joined == [1]
    assert found.inner.parameters.keys() == expected.inner.parameters.keys()
    assert found.inner.buffers["count"] > 0
    close = {"rtol": 1e-9, "atol": 1e-13}
    torch.testing.assert_close(found.gradients, expected.gradients, **close)
    torch.testing.assert_close(found.value, expected.value, **close)
    torch.testing.assert_close(found.losses, expected.losses, **close)
    for (one, mine), (other, theirs) in zip(
        found.inner.named_tensors(), expected.inner.named_tensors(), strict=True
    ):
        assert one == other
        torch.testing.assert_close(mine, theirs, **close)


def test_splitting_undoes_joining():
    rule = make_rule("adam-lstm", torch.float64, hidden_size=3)
    problem, data = make_problem()
    loop = InnerLoop(rule, problem.loss, False, differentiable=False)
    inner, _ = loop.step(start(rule, [problem], vectorize=False), data.training.next())
    _, joined = join(loop, inner)
    assert joined.parameters[JOINED].shape == (32,)
    assert joined.states[JOINED]["h"].shape == (32, 3)
    for (one, mine), (other, theirs) in zip(
        split(joined, inner).named_tensors(), inner.named_tensors(), strict=True
    ):
        assert one == other
        assert torch.equal(mine, theirs)


def test_what_would_not_be_the_same_is_not_joined():
    problem, _ = make_problem()
    rule = make_rule("adam-lstm", torch.float64, hidden_size=3)
    loop = InnerLoop(rule, problem.loss, False)
    inner = start(rule, [problem], vectorize=False)
    assert can_join(loop, inner)
    teacher = create_teacher("adam", None, torch.device("cpu"), torch.float64)
    assert not can_join(replace(loop, teacher=teacher), inner)
    assert not can_join(replace(loop, vectorize=True), inner)
    assert not can_join(replace(loop, weights={}), inner)
    assert not can_join(replace(loop, rule=make_rule("step-size-lstm", torch.float64)), inner)
    assert not can_join(replace(loop, rule=make_rule("sgd", torch.float64)), inner)
    named = {JOINED: torch.ones(2).double(), **inner.parameters}
    assert not can_join(loop, replace(inner, parameters=named))
    first = next(iter(inner.parameters))
    assert not can_join(loop, replace(inner, parameters={first: inner.parameters[first]}))
    half = {**inner.parameters, first: inner.parameters[first].float()}
    assert not can_join(loop, replace(inner, parameters=half))
