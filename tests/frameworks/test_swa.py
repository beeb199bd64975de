"""Averages of weights by torch.optim.swa_utils: stopped, resumed, and their final values."""

import pytest
import torch
from conftest import make_batch, model_loss, same
from small_rules import each_rule, loss_rule, small_rule, snapshot, steps_taken, through_a_file
from torch import nn
from torch.optim.swa_utils import (
    SWALR,
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)

from learned_opt import LearnedOptimizer

AVERAGES = {
    "SWA": lambda model: AveragedModel(model),
    "SWA avg_fn": lambda model: AveragedModel(model, avg_fn=get_swa_avg_fn()),
    "SWA multi_avg_fn": lambda model: AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn()),
    "EMA avg_fn": lambda model: AveragedModel(model, avg_fn=get_ema_avg_fn(0.9)),
    "EMA multi_avg_fn": lambda model: AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True
    ),
}


def normalised_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))


class Run:
    def __init__(self, rule, average):
        self.model = normalised_model()
        self.optimizer = LearnedOptimizer(self.model.parameters(), lr=0.1, rule=rule)
        self.schedule = SWALR(self.optimizer, swa_lr=0.02, anneal_epochs=4)
        self.averaged = AVERAGES[average](self.model)

    def train(self, steps):
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = model_loss(self.model)
            loss.backward()
            self.optimizer.step(lambda loss=loss: loss)
            self.averaged.update_parameters(self.model)
            self.schedule.step()

    def finish(self):
        inputs, _ = make_batch()
        update_bn(inputs.split(4), self.averaged)
        self.averaged.eval()
        return self.averaged(inputs).detach()

    def save(self):
        return through_a_file({key: part.state_dict() for key, part in vars(self).items()})

    def load(self, saved):
        for key, part in vars(self).items():
            part.load_state_dict(saved[key])


def assert_resumes(rule, average):
    unbroken = Run(rule, average)
    unbroken.train(6)
    stopped = Run(rule, average)
    stopped.train(3)
    resumed = Run(rule, average)
    resumed.load(stopped.save())
    resumed.train(3)
    assert steps_taken(resumed.optimizer) == 6
    assert int(resumed.averaged.n_averaged) == 6
    runs = (resumed, unbroken)
    assert same(*(snapshot(run.model, run.optimizer) for run in runs))
    assert same(*(run.averaged.state_dict() for run in runs))
    assert not same(unbroken.averaged.module[0].weight, unbroken.model[0].weight)
    assert same(*(run.finish() for run in runs))


@pytest.mark.parametrize("average", AVERAGES)
def test_an_averaged_run_resumes_bitwise(average):
    assert_resumes(small_rule(), average)


@each_rule
def test_every_learned_rule_resumes_with_its_average(rule_name):
    assert_resumes(small_rule(rule_name), "EMA multi_avg_fn")


def test_a_rule_that_reads_the_loss_resumes_with_its_average():
    assert_resumes(loss_rule(), "SWA")


def test_the_average_of_one_update_is_the_model_itself():
    run = Run(small_rule(), "SWA")
    run.train(1)
    assert same(list(run.averaged.module.parameters()), list(run.model.parameters()))
