"""The faster ways of an ES outer step train the same weights.

In float64: in float32 rounding alone moves weights by 2e-5 where pairs of runs are so few.
"""

import importlib
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from learned_opt import create_rule
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import create_task
from meta_train.tasks.base import BatchedLoss


@pytest.fixture(scope="module")
def one_by_one():
    """The benchmark's family of the same tasks without a faster way for many runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "speed")
        yield importlib.import_module("es_outer_step").OneByOneFamily


def has_a_faster_way(family):
    _, task = family.sample_task(torch.Generator().manual_seed(0))
    problem = task.sample(torch.Generator().manual_seed(0), torch.device("cpu"))
    return isinstance(problem.loss, BatchedLoss)


def train(family, outer_steps, compile_rule=False):
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
        compile_rule=compile_rule,
        dtype="float64",
    )
    torch.manual_seed(0)
    rule = create_rule("step-size-lstm")
    begin = parameters_to_vector(rule.parameters()).detach().clone()
    trainer = MetaTrainer(rule, family, settings, device="cpu")
    for _ in range(outer_steps):
        trainer.take_outer_step()
    end = parameters_to_vector(rule.parameters()).detach()
    return end, float((end - begin).abs().max())


def test_batched_losses_train_the_same_weights_over_20_outer_steps(one_by_one):
    family = create_task("random-mlp", data=["digits"])
    assert has_a_faster_way(family) and not has_a_faster_way(one_by_one(family))
    plain, moved = train(one_by_one(family), 20)
    batched, _ = train(family, 20)
    assert moved > 0.01
    assert float((plain - batched).abs().max()) < 1e-9


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_rule_trains_the_same_weights_over_20_outer_steps(one_by_one):
    family = create_task("random-mlp", data=["digits"])
    plain, moved = train(one_by_one(family), 20)
    compiled, _ = train(family, 20, compile_rule=True)
    assert moved > 0.01
    assert float((plain - compiled).abs().max()) < 1e-9
