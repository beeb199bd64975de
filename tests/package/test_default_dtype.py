"""Counts, totals and draws are the same whatever torch's default dtype is.

1001 and 0.003 are no bfloat16 numbers: the nearest are 1000 and 0.0030059814453125.
"""

import pytest
import torch
from torch import nn

from learned_opt import adapt
from learned_opt.rules import CoordinateRule
from meta_train.evaluation.curves import train_curves
from meta_train.inner.loop import InnerLoop
from meta_train.inner.runs.horizons import Horizons
from meta_train.inner.state import start
from meta_train.tasks import Task
from meta_train.tasks.base import Problem
from meta_train.tasks.families.sampling import sample_bool


@pytest.fixture(autouse=True)
def bfloat16_by_default():
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


class Totals(CoordinateRule):
    """Notes the planned number of steps, and moves each coordinate by 1."""

    default_lr = 1.0

    def __init__(self):
        super().__init__()
        self.seen = []

    def coordinate_state(self):
        return {}

    def read_context(self):
        return frozenset({"total_steps"})

    def update_coordinates(self, gradient, parameter, state, context, gates=None):
        self.seen.append(context.total_steps)
        return torch.ones_like(gradient), state


class Line(Task):
    """The loss is the parameter itself, which begins at 1, in float32."""

    def sample(self, generator, device):
        begin = {"x": torch.ones((), dtype=torch.float32)}
        batch = torch.ones((), dtype=torch.float32)
        return Problem(begin, {}, self.loss, lambda _: batch, lambda: batch)

    @staticmethod
    def loss(parameters, buffers, batch):
        return parameters["x"] * batch, buffers


def generator():
    return torch.Generator().manual_seed(0)


def test_the_planned_steps_of_an_inner_loop_are_exact():
    rule, problem = Totals(), Line().sample(generator(), torch.device("cpu"))
    loop = InnerLoop(rule, problem.loss, vectorize=False, total_steps=1001)
    inner, _ = loop.step(start(rule, [problem], vectorize=False), problem.full())
    assert [float(total) for total in rule.seen] == [1001.0]  # a tensor == 1001 rounds 1001, too
    assert inner.first_loss.dtype == torch.float32


def test_the_planned_steps_of_adapt_are_exact():
    rule, model = Totals(), nn.Linear(1, 1)
    data = torch.ones(1, 1), torch.ones(1, 1)
    adapt(model, data, loss=nn.functional.mse_loss, rule=rule, steps=257)
    assert {float(total) for total in rule.seen} == {257.0}


def test_learning_rates_of_a_comparison_are_exact():
    curves = train_curves(Totals(), Line(), seeds=[0], steps=2, learning_rates=[0.003])
    assert curves.losses[0, 0].tolist() == [1.0, pytest.approx(1.003, rel=1e-6)]


def test_draws_are_those_of_the_usual_default():
    horizons, source = Horizons(((100, 10_000),), "log-uniform"), generator()
    lengths = [horizons.sample(source, 0.0) for _ in range(50)]
    hits = sum(sample_bool(source, 1 / 1024) for _ in range(4096))
    torch.set_default_dtype(torch.float32)
    source = generator()
    assert lengths == [horizons.sample(source, 0.0) for _ in range(50)]
    assert hits == sum(sample_bool(source, 1 / 1024) for _ in range(4096))
    assert len(set(lengths)) > 40  # in bfloat16 there are 256 draws, and 0 comes 16 times in 4096
