"""The faster ways of an ES outer step train the same weights.

In float64: in float32 rounding alone moves weights by 2e-5 where pairs of runs are so few.
"""

import shutil
from dataclasses import replace

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from learned_opt import create_rule
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import create_task
from meta_train.tasks.base import BatchedLoss, SampledTask, Task, TaskFamily


class OneByOne(Task):
    """A task whose problems have no faster way for many runs."""

    def __init__(self, task):
        self.task = task

    def sample(self, generator, device):
        problem = self.task.sample(generator, device)
        assert isinstance(problem.loss, BatchedLoss)
        return replace(problem, loss=problem.loss.one, draw=lambda source: problem.draw(source))


class OneByOneFamily(TaskFamily):
    def __init__(self, family):
        self.family = family

    def sample_task(self, generator):
        name, task = self.family.sample_task(generator)
        return SampledTask(name, OneByOne(task))

    def held_out(self):
        return self.family.held_out()


def train(way, outer_steps):
    """The weights of step-size-lstm after some outer steps of 5 inner steps, and their change."""
    settings = TrainSettings(
        estimator="es",
        estimator_settings={"sigma": 0.05, "clip": 2.0},
        outer_steps=outer_steps,
        runs=2,
        horizons=(5,),
        objective="log-tail",
        param_rescale_range=0.5,
        loss_rescale_range=1.0,
        hide_loss=0.25,
        lr=0.01,
        grad_clip_norm=100.0,
        compile_rule=way == "compiled",
        dtype="float64",
    )
    family = create_task("random-mlp", data=["digits"])
    torch.manual_seed(0)
    rule = create_rule("step-size-lstm")
    begin = parameters_to_vector(rule.parameters()).detach().clone()
    family = OneByOneFamily(family) if way == "vmap" else family
    trainer = MetaTrainer(rule, family, settings, device="cpu")
    for _ in range(outer_steps):
        trainer.take_outer_step()
    end = parameters_to_vector(rule.parameters()).detach()
    return end, float((end - begin).abs().max())


def test_batched_losses_train_the_same_weights_over_20_outer_steps():
    plain, moved = train("vmap", 20)
    batched, _ = train("batched", 20)
    assert moved > 0.01
    assert float((plain - batched).abs().max()) < 1e-9


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_rule_trains_the_same_weights_over_20_outer_steps():
    plain, moved = train("vmap", 20)
    compiled, _ = train("compiled", 20)
    assert moved > 0.01
    assert float((plain - compiled).abs().max()) < 1e-9
