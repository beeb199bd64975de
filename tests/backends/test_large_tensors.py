"""The default's step of tensors that do not fit the cache: the rule's numbers, little memory."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from learned_opt import LearnedOptimizer, create_rule

MIB = 1 << 20


def start(shape, *, turned):
    torch.manual_seed(0)
    start = 0.3 * torch.randn(shape)
    return nn.Parameter(start.mT.contiguous().mT if turned else start)


def steps(parameter, count, **options):
    rule = create_rule("orthogonal-momentum").to(parameter.dtype)
    optimizer = LearnedOptimizer([parameter], rule=rule, **options)
    for step in range(count):
        torch.manual_seed(100 + step)
        parameter.grad = torch.randn(parameter.shape).to(parameter.dtype)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("turned", [False, True], ids=["by rows", "by columns"])
@pytest.mark.parametrize("shape", [(600, 500), (500, 600), (1500, 200), (200, 1500), (5000, 60)])
def test_a_step_is_the_rule_s_in_double_precision(shape, turned):
    assert shape[0] * shape[1] > 1 << 18
    found, exact = (start(shape, turned=turned) for _ in range(2))
    exact = nn.Parameter(exact.detach().double())
    states = [
        steps(one, 3, fused=fused, weight_decay=0.1).state[one]
        for one, fused in ((found, True), (exact, False))
    ]
    assert (found.stride(0) == 1) == turned
    torch.testing.assert_close(found.detach().double(), exact.detach(), rtol=1e-5, atol=1e-5)
    for key, value in states[1].items():
        torch.testing.assert_close(states[0][key].double(), value, rtol=1e-5, atol=1e-5)


# A matrix is copied once, beside at most seven squares of its shorter side.
@pytest.mark.parametrize(
    ("shape", "most"),
    [
        ((1000, 1000), 24),
        ((2000, 500), 11),
        ((500, 2000), 11),
        ((40_000, 50), 2),
        ((2_000_000,), 2),
    ],
)
def test_a_step_needs_little_memory(shape, most):
    parameter = start(shape, turned=False)
    optimizer = steps(parameter, 2)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        optimizer.step()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = torch.tensor([change for _, change in changes]).cumsum(0)
    assert 0 < int(live.max()) < most * MIB
