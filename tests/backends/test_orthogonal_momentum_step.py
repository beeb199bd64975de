"""The default's step in place, beside the rule in double precision."""

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.rules.parts.momentum_constants import MomentumConstants, PaceConstants

SHAPES = [
    (30, 7),
    (30, 7),
    (7, 30),
    (4, 3, 2, 2),
    (20, 200),
    (20, 100, 2),  # of the same matrix, but narrower
    (1, 5),
    (5, 1),
    (1100, 3),
    (9,),
    (9,),
    (),
    (0, 3),
]


OTHER = MomentumConstants(
    *(1.3, 0.6, 0.7, 0.8, 0.97, 5.0, 30.0, 0.7, 3.0), PaceConstants(3.0, 2.0, 0.05, 0.4, 0.2)
)
"""None is the usual one."""


def run(steps, *, fused, dtype=torch.float32, total=None, late=(), constants=None, **options):
    torch.manual_seed(0)
    parameters = [nn.Parameter((0.3 * torch.randn(shape)).to(dtype)) for shape in SHAPES]
    rule = create_rule("orthogonal-momentum").to(dtype)
    rule._constants = constants or rule.constants
    optimizer = LearnedOptimizer(parameters, rule=rule, fused=fused, total_steps=total, **options)
    for step in range(steps):
        torch.manual_seed(100 + step)
        for k, parameter in enumerate(parameters):
            gradient = torch.randn(parameter.shape).to(dtype)
            parameter.grad = None if k in late and step < 3 else gradient
        optimizer.step()
    return parameters, optimizer


@pytest.mark.parametrize("total", [None, 10])
@pytest.mark.parametrize("late", [(), (1, 10)], ids=["together", "some begin later"])
@pytest.mark.parametrize("constants", [None, OTHER], ids=["usual", "other"])
def test_it_is_as_near_to_double_precision_as_the_rule(total, late, constants):
    options = {"weight_decay": 0.1, "total": total, "late": late, "constants": constants}
    (exact, reference) = run(10, fused=False, dtype=torch.float64, **options)
    (found, optimizer) = run(10, fused=True, **options)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.detach().double(), other.detach(), rtol=1e-5, atol=1e-5)
        for key, value in reference.state[other].items():
            torch.testing.assert_close(
                optimizer.state[one][key].double(), value, rtol=1e-5, atol=1e-5
            )
    optimizer.eval()
    reference.eval()
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.detach().double(), other.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("length", "bounded"), [(0.1, True), (10.0, False)])
def test_the_pace_of_a_matrix_that_circles_is_the_rule_s(length, bounded):
    """At a length of 0.1 its distance from the average bounds the pace."""
    paces = []
    for fused, dtype in ((True, torch.float32), (False, torch.float64)):
        matrix = nn.Parameter(torch.full((4, 6), length, dtype=dtype))
        rule = create_rule("orthogonal-momentum").to(dtype)
        optimizer = LearnedOptimizer([matrix], rule=rule, fused=fused)
        generator = torch.Generator().manual_seed(0)
        east, north = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64).to(dtype)
        for t in range(50):
            angle = torch.tensor(2 * torch.pi * t / 60)
            matrix.grad = angle.cos() * east + angle.sin() * north
            optimizer.step()
        paces.append(float(optimizer.state[matrix]["scalars"][2]))
    assert paces[0] == pytest.approx(paces[1], abs=1e-4)
    assert (0.1 < paces[1] < 0.4) if bounded else paces[1] > 0.9


def test_a_tensor_without_gradient_dies_down_as_by_the_rule():
    runs = []
    for fused in (True, False):
        parameters, optimizer = run(5, fused=fused)
        for _ in range(150):
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        runs.append(parameters)
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_tensors_that_others_hold_in_other_strides_are_stepped_in_place():
    torch.manual_seed(0)
    storage = torch.randn(6, 4)
    kernel = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    moved = []
    for fused in (True, False):
        one, two = nn.Parameter(storage.clone().mT), nn.Parameter(kernel.clone())
        optimizer = LearnedOptimizer([one, two], fused=fused)
        for step in range(3):
            torch.manual_seed(step)
            one.grad, two.grad = torch.randn(6, 4).mT, torch.randn(4, 3, 2, 2)
            optimizer.step()
        assert not one.is_contiguous() and two.is_contiguous(memory_format=torch.channels_last)
        moved.append([one.detach(), two.detach()])
    torch.testing.assert_close(*moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_refused(dtype):
    parameter = nn.Parameter(torch.ones(3, 4, dtype=dtype))
    short = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"shape \[3, 4\]: it is {short}, not float32"):
        LearnedOptimizer([parameter], fused=True)


def test_gradients_whose_momentum_overflows_leave_the_tensor_to_the_rule():
    runs = []
    for fused in (None, False):
        parameter = nn.Parameter(torch.ones(3, 4))
        optimizer = LearnedOptimizer([parameter], fused=fused)
        for scale in (1.0, 1e25, 1.0):
            torch.manual_seed(0)
            parameter.grad = scale * torch.randn(3, 4)
            optimizer.step()
        runs.append(parameter.detach())
        assert optimizer.skipped_updates == 0
    torch.testing.assert_close(*runs)
