"""CONFORMANCE.md, lines 46 to 49 and 51: schedulers and the frameworks' expectations."""

import copy
import importlib
import warnings

import pytest
import torch
from conftest import clones, make_model, make_optimizer, same, step_with, train
from torch.optim import lr_scheduler

from learned_opt import LearnedOptimizer, create_rule

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.5**step),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.5),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 1),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 2]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 2),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, cycle_momentum=False),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, 9, cycle_momentum=False),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.5), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.StepLR(o, 1)]),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_46_schedulers_set_the_lr_that_the_step_uses(scheduler):
    rule = create_rule("sgd")
    optimizer, (parameter,) = make_optimizer(rule, torch.zeros(1), lr=0.1)
    schedule = SCHEDULERS[scheduler](optimizer)
    seen = []
    for _ in range(4):
        parameter.data.zero_()
        seen.append(optimizer.param_groups[0]["lr"])
        step_with(optimizer, torch.ones(1))
        assert -parameter.item() == pytest.approx(seen[-1], rel=1e-5)
        schedule.step()
    assert len(set(seen)) > 1
    assert "initial_lr" in optimizer.param_groups[0]


def test_46_reduce_on_plateau_works(rule):
    optimizer, _ = make_optimizer(rule, torch.ones(1), lr=0.1)
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    for _ in range(2):
        step_with(optimizer, torch.ones(1))
        schedule.step(1.0)
    assert optimizer.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize("scheduler", [lr_scheduler.CyclicLR, lr_scheduler.OneCycleLR])
def test_46_cycling_the_momentum_is_refused_with_a_reason(rule, scheduler):
    optimizer, _ = make_optimizer(rule, torch.ones(1))
    with pytest.raises(ValueError, match="cycle_momentum"):
        scheduler(optimizer, 0.01, 10)


def test_47_train_and_eval_leave_alone_what_keeps_no_average(rule):
    """Trainer and accelerate call both; a planned run ends where it should be evaluated."""
    optimizer, (parameter,) = make_optimizer(rule, torch.ones(2), total_steps=10)
    step_with(optimizer, torch.ones(2))
    before = clones([parameter])
    optimizer.eval()
    assert same([parameter.detach()], before)
    optimizer.train()
    step_with(optimizer, torch.ones(2))
    assert not same([parameter.detach()], before)


def test_48_a_swapped_step_and_swapped_parameters_are_honoured(rule):
    optimizer, _ = make_optimizer(rule, torch.ones(2))
    step, calls = optimizer.step, []
    optimizer.step = lambda *args: (calls.append(1), step(*args))
    step_with(optimizer, torch.ones(2))
    replacement = torch.nn.Parameter(torch.ones(2))
    optimizer.param_groups[0]["params"] = [replacement]
    step_with(optimizer, torch.ones(2))
    assert calls == [1, 1]
    assert not same(replacement, torch.ones(2))


def test_49_dynamic_subclasses_and_new_attributes_work(rule):
    model = make_model()
    plain = LearnedOptimizer(model.parameters(), rule=rule, total_steps=100)
    expected = copy.deepcopy(model)
    train(expected, LearnedOptimizer(expected.parameters(), rule=rule, total_steps=100), 2)
    # As Lightning and Accelerate do: a class made at run time around the same __dict__.
    wrapper = type("LightningLearnedOptimizer", (LearnedOptimizer,), {})
    wrapped = wrapper.__new__(wrapper)
    wrapped.__dict__ = {**plain.__dict__, "note": "mine"}
    train(model, wrapped, 2)
    assert same(clones(model.parameters()), clones(expected.parameters()))


def test_49_a_scheduler_before_the_first_step_still_warns_of_nothing(rule):
    optimizer, _ = make_optimizer(rule, torch.ones(1))
    schedule = lr_scheduler.StepLR(optimizer, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step_with(optimizer, torch.ones(1))
        schedule.step()


def test_51_higher_knows_the_optimizer(rule):
    higher = pytest.importorskip("higher")  # an extra, which the environment of the wheel lacks
    importlib.import_module("learned_opt.differentiable")  # registers it
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, total_steps=100)
    with higher.innerloop_ctx(model, optimizer) as (_, diffopt):
        assert diffopt.rule is rule
