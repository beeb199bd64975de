"""Gradients accumulated over micro-batches in a plain loop: one step for all of them."""

import torch
from conftest import make_batch, make_model, same
from small_rules import each_rule, loss_rule, small_rule, snapshot, steps_taken, through_a_file
from torch import nn

from learned_opt import LearnedOptimizer


class Run:
    def __init__(self, rule, micro_batches):
        self.model = make_model().double()
        self.optimizer = LearnedOptimizer(self.model.parameters(), lr=0.1, rule=rule.double())
        self.micro_batches = micro_batches

    def train(self, steps):
        size = 8 // self.micro_batches
        inputs, targets = (tensor.split(size) for tensor in make_batch(torch.float64))
        for _ in range(steps):
            self.optimizer.zero_grad()
            total = 0.0
            for k in range(self.micro_batches):
                loss = nn.functional.mse_loss(self.model(inputs[k]), targets[k])
                (loss / self.micro_batches).backward()
                total += loss.detach() / self.micro_batches
            self.optimizer.step(lambda total=total: total)

    def save(self):
        return through_a_file([self.model.state_dict(), self.optimizer.state_dict()])

    def load(self, saved):
        self.model.load_state_dict(saved[0])
        self.optimizer.load_state_dict(saved[1])


def assert_resumes(rule):
    unbroken, stopped, resumed, whole = (Run(rule, count) for count in (4, 4, 4, 1))
    unbroken.train(6)
    stopped.train(3)
    resumed.load(stopped.save())
    resumed.train(3)
    assert steps_taken(resumed.optimizer) == 6
    assert same(*(snapshot(run.model, run.optimizer) for run in (resumed, unbroken)))
    # Equal to the run on whole batches, up to the order of a sum.
    whole.train(6)
    torch.testing.assert_close(*(run.model.state_dict() for run in (unbroken, whole)))


@each_rule
def test_an_accumulating_run_resumes_bitwise(rule_name):
    assert_resumes(small_rule(rule_name))


def test_an_accumulating_run_that_gives_the_mean_loss_resumes_bitwise():
    assert_resumes(loss_rule())
