"""Averages where others write weights too: bounds, aliases, masks, and compiled steps."""

import warnings

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer


def trained(steps, after=lambda model: None, compiled=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    optimizer = LearnedOptimizer(model.parameters())
    step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).sub(torch.randn(8, 2)).square().mean().backward()
        step()
        after(model)
    return model, optimizer


@torch.no_grad()
def bound(model):
    for parameter in model.parameters():
        parameter.clamp_(-10, 10)  # never reached


def test_a_bound_that_changes_nothing_costs_no_average():
    plain, optimizer = trained(60)
    optimizer.eval()
    bounded, other = trained(60, bound)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.eval()
    for one, two in zip(plain.parameters(), bounded.parameters(), strict=True):
        assert torch.equal(one, two)
    with torch.no_grad():  # and weights that are loaded under such a bound are kept
        other.train()
        for parameter in bounded.parameters():
            parameter.fill_(7)
    with pytest.warns(UserWarning, match="weights were changed since the last step"):
        other.eval()
    assert all((parameter == 7).all() for parameter in bounded.parameters())


@pytest.mark.parametrize("compiled", [False, True])
def test_weights_that_are_loaded_are_evaluated_after_compiled_steps_too(compiled):
    model, optimizer = trained(10, compiled=compiled)
    model.load_state_dict({k: torch.full_like(v, 7.0) for k, v in model.state_dict().items()})
    with pytest.warns(UserWarning, match="weights were changed since the last step"):
        optimizer.eval()
    assert all((parameter == 7).all() for parameter in model.parameters())
    optimizer.train()
    assert all((parameter == 7).all() for parameter in model.parameters())


def test_parameters_that_share_memory_come_back_bit_for_bit():
    torch.manual_seed(0)
    table, head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
    head.weight = nn.Parameter(table.weight.data)  # tied by memory, not as one parameter
    optimizer = LearnedOptimizer([table.weight, head.weight])
    for _ in range(20):
        optimizer.zero_grad()
        words = torch.randint(6, (8,))
        nn.functional.cross_entropy(head(table(words)), (words + 1) % 6).backward()
        optimizer.step()
    before = table.weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.eval()
        assert not torch.equal(table.weight, before)
        optimizer.train()
    assert torch.equal(table.weight, before)


def test_an_infinity_stays_in_evaluation():
    parameter = nn.Parameter(torch.tensor([1.0, 2.0, -torch.inf]))
    optimizer = LearnedOptimizer([parameter])
    parameter.grad = torch.tensor([1.0, 1.0, 0.0])
    with pytest.warns(RuntimeWarning, match="not finite"):
        optimizer.step()
    for change in (optimizer.eval, optimizer.train):
        change()
        assert parameter.tolist() == [1.0, 2.0, -torch.inf]


def test_a_complex_parameter_may_be_bounded_after_each_step():
    torch.manual_seed(0)
    start = torch.complex(1 + torch.rand(3, 5), torch.rand(3, 5))
    runs = []
    for is_bounded in (False, True):
        parameter = nn.Parameter(start.clone())
        optimizer = LearnedOptimizer([parameter])
        for step in range(6):
            torch.manual_seed(step)
            parameter.grad = torch.randn(3, 5, dtype=torch.complex64)
            optimizer.step()
            if is_bounded:
                with torch.no_grad():
                    parameter.mul_(1)
        optimizer.eval()
        runs.append(parameter.detach())
    assert torch.equal(*runs)
