"""The default's step of tensors that do not fit the cache: the rule's numbers, little memory."""

from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.backends.registry import FUSED_STEPS
from learned_opt.c_library import addresses, call_c, is_generic, missing_library

MIB = 1 << 20


def start(shape, *, turned):
    torch.manual_seed(0)
    start = 0.3 * torch.randn(shape)
    return nn.Parameter(start.mT.contiguous().mT if turned else start)


def steps(parameter, count, code=None, **options):
    """Step a parameter by this code, or by the rule's own."""
    rule = create_rule("orthogonal-momentum").to(parameter.dtype)
    chosen = [step() for step in FUSED_STEPS[type(rule)] if step.code == code]
    with mock.patch("learned_opt.optimizer.fused.fused_steps", lambda rule: chosen):
        optimizer = LearnedOptimizer([parameter], rule=rule, fused=bool(chosen), **options)
    for step in range(count):
        torch.manual_seed(100 + step)
        parameter.grad = torch.randn(parameter.shape).to(parameter.dtype)
        optimizer.step()
    return optimizer


def skip_without(code):
    if code == "torch and C" and (missing_library() or is_generic()):
        pytest.skip("no C library with vector instructions")


@pytest.mark.parametrize("code", ["torch", "torch and C"])
@pytest.mark.parametrize("turned", [False, True], ids=["by rows", "by columns"])
@pytest.mark.parametrize(
    "shape", [(600, 500), (500, 600), (1500, 200), (200, 1500), (5000, 60), (1, 300_000)]
)
def test_a_step_is_the_rule_s_in_double_precision(shape, turned, code):
    skip_without(code)
    assert shape[0] * shape[1] > 1 << 18
    found, exact = (start(shape, turned=turned) for _ in range(2))
    exact = nn.Parameter(exact.detach().double())
    states = [
        steps(one, 3, way, weight_decay=0.1).state[one]
        for one, way in ((found, code), (exact, None))
    ]
    assert found.is_contiguous() != turned or shape[0] == 1
    torch.testing.assert_close(found.detach().double(), exact.detach(), rtol=1e-5, atol=1e-5)
    for key, value in states[1].items():
        torch.testing.assert_close(states[0][key].double(), value, rtol=1e-5, atol=1e-5)


# A matrix is copied once, beside at most nine squares of its shorter side.
@pytest.mark.parametrize(
    ("shape", "most"),
    [
        ((1000, 1000), 24),
        ((2000, 500), 13),
        ((500, 2000), 13),
        ((40_000, 50), 2),
        ((2_000_000,), 2),
    ],
)
@pytest.mark.parametrize("code", ["torch", "torch and C"])
def test_a_step_needs_little_memory(shape, most, code):
    skip_without(code)
    parameter = start(shape, turned=False)
    optimizer = steps(parameter, 2, code)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        optimizer.step()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = torch.tensor([change for _, change in changes]).cumsum(0)
    assert 0 < int(live.max()) < most * MIB


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_sums_over_vectors_in_c_are_those_of_float64_for_any_threads(threads):
    if missing_library():
        pytest.skip(missing_library())
    torch.manual_seed(0)
    m, v, g = (torch.randn(size) for size in (70_000, 70_000, 70_000))
    v = v.square()
    v[::3], m[::3], g[::3] = 0, 0, 0
    pieces = np.array([[0, 0, 30_000], [0, 30_000, 20_001], [1, 0, 19_999]])
    sums, halves = np.empty((3, 3)), [x.split([50_001, 19_999]) for x in (m, v, g, g)]
    constants = np.array([0.9, -0.1, 0.99, 0.01, 0.5, 0.25])
    places = addresses([part for parts in halves for part in parts])
    call_c("vector_sums", 2, 3, pieces, places, constants, sums, threads)
    new_m = 0.9 * m.double() - 0.1 * g.double()
    new_v = 0.99 * v.double() + 0.01 * g.double().square()
    direction = torch.where(new_v == 0, 0, new_m / 0.5 / (new_v / 0.25).sqrt())
    for row, exact in zip(sums.T, (direction, new_m, new_v), strict=True):
        for found, part in zip(row, exact.split([30_000, 20_001, 19_999]), strict=True):
            assert found == pytest.approx(float(part.square().sum()), rel=1e-6)
