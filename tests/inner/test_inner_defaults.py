"""Criteria of inner training, written down."""

import torch
from conftest import make_rule

from meta_train.inner.loop import InnerLoop
from meta_train.inner.runs.restart_buffer import Kept, RestartBuffer
from meta_train.inner.state import start
from meta_train.tasks.base import Problem


class Multiple:
    """A loss that is whatever the batch says, with a gradient of zero."""

    def __call__(self, parameters, buffers, batch):
        return 0 * parameters["theta"].sum() + batch, buffers


def alive_after(losses):
    """Whether a run is alive after each of these losses."""
    problem = Problem({"theta": torch.ones(2)}, {}, Multiple(), None, None)
    loop = InnerLoop(make_rule("sgd"), Multiple(), False)
    inner, alive = start(make_rule("sgd"), [problem], vectorize=False), []
    for loss in losses:
        inner, _ = loop.step(inner, torch.tensor(loss))
        alive.append(bool(inner.alive))
    return alive


def test_a_run_has_diverged_above_a_thousand_times_its_first_loss():
    assert alive_after([2.0, 1999.0, 2000.0, 2001.0]) == [True, True, True, False]


def test_a_first_loss_counts_as_at_least_1e_minus_8():
    assert alive_after([0.0, 0.9e-5, 1.1e-5]) == [True, True, False]


def test_four_ends_of_each_run_are_kept():
    problem = Problem({"theta": torch.ones(2)}, {}, Multiple(), None, None)
    state, buffer = start(make_rule("sgd"), [problem], vectorize=False), RestartBuffer(2)
    for age in range(1, 8):
        buffer.keep(1, Kept((1, 0), age, state))
    assert [[end.age for end in ends] for ends in buffer.ends] == [[], [4, 5, 6, 7]]
