"""Random rescaling of parameters and loss."""

import math

import pytest
import torch
from conftest import same
from torch import nn

from meta_train.runtime.seeding import generator
from meta_train.tasks import ModuleTask, Quadratic, Reparametrized

CPU = torch.device("cpu")


def sample(task, seed=0):
    return task.sample(generator("problem", seed), CPU)


def test_rescaled_parameters_leave_the_loss_unchanged():
    task = Quadratic()
    plain, problem = sample(task), sample(Reparametrized(task, 1.0))
    assert not same(plain.parameters, problem.parameters)
    loss, _ = problem.loss(problem.parameters, problem.buffers, problem.full())
    torch.testing.assert_close(loss, plain.loss(plain.parameters, {}, plain.full())[0])


def test_each_tensor_has_a_factor_of_its_own_within_the_range():
    factors = []
    for seed in range(40):
        problem = sample(Reparametrized(Quadratic(), 1.0), seed)
        plain = sample(Quadratic(), seed).parameters["theta"]
        factor = plain / problem.parameters["theta"]
        torch.testing.assert_close(factor, problem.buffers["scale of theta"].expand(10))
        factors.append(float(factor[0]))
    assert math.exp(-1) <= min(factors) < 0.5 and 2 < max(factors) <= math.exp(1)


def test_the_factor_of_the_loss_is_drawn_last_and_for_each_problem():
    task = Quadratic()
    params, both = Reparametrized(task, 1.0), Reparametrized(task, 1.0, loss_rescale_range=2.0)
    factors = []
    for seed in range(20):
        alone, scaled = sample(params, seed), sample(both, seed)
        assert same(alone.parameters, scaled.parameters)
        values = [p.loss(p.parameters, p.buffers, p.full())[0] for p in (alone, scaled)]
        factors.append(float(values[1] / values[0]))
    assert math.exp(-2) <= min(factors) < 0.7 and 1.4 < max(factors) <= math.exp(2)


@pytest.mark.parametrize("name", ["param_rescale_range", "loss_rescale_range"])
def test_a_negative_range_is_refused(name):
    with pytest.raises(ValueError, match=f"^{name} must not be negative, got -1"):
        Reparametrized(Quadratic(), **{"param_rescale_range": 0.0, name: -1})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parameters_in_half_precision_stay_so(dtype):
    torch.manual_seed(0)
    data = torch.rand(8, 2).to(dtype), torch.rand(8, 1).to(dtype)
    task = ModuleTask(lambda: nn.Linear(2, 1).to(dtype), nn.functional.mse_loss, data, batch_size=4)
    problem = sample(Reparametrized(task, 1.0, loss_rescale_range=1.0))
    assert all(value.dtype == dtype for value in problem.parameters.values())
    loss, _ = problem.loss(problem.parameters, problem.buffers, problem.full())
    plain = sample(task)
    expected, _ = plain.loss(plain.parameters, plain.buffers, plain.full())
    factor = problem.buffers["scale of "]  # of the loss
    torch.testing.assert_close(loss.float(), (expected * factor).float(), rtol=0.05, atol=0.01)
