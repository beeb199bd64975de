"""Steps in Triton equal the rule's: run on a GPU, or on the CPU by Triton's interpreter.

Not collected by themselves: `test_triton_interpreted.py` runs the cases in a process of its own,
since Triton reads TRITON_INTERPRET when kernels are imported, and `test_triton_gpu.py` imports
them.
"""

import pytest
import torch
from one_training import ROUNDING, check, exact, in_place
from torch import nn
from triton_pair import *  # noqa: F403
from triton_pair import DEVICE, Pair, gradients, random_rule

from learned_opt import LearnedOptimizer, create_rule, from_pretrained
from learned_opt.backends import registry
from learned_opt.rules.parts.momentum_constants import MomentumConstants, PaceConstants


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"maximize": True, "weight_decay": 0.3},
        {"lr": torch.tensor(0.02), "weight_decay": 0.1},
        {"groups": 2},
    ],
    ids=str,
)
def test_steps_agree(name, options):
    pair = Pair(name, **options)
    before = pair.copies(0)
    pair.run()
    pair.check()
    for parameter, old in zip(pair.parameters[0], before, strict=True):
        assert parameter.numel() == 0 or not torch.equal(parameter, old)
    assert [optimizer.skipped_updates for optimizer in pair.optimizers] == [0, 0]


def test_a_tensor_learning_rate_on_the_device_is_followed(name):
    pair = Pair(name, [(5, 3), (4,)], lr=torch.tensor(0.02, device=DEVICE))
    pair.run(1)
    for optimizer in pair.optimizers:
        optimizer.param_groups[0]["lr"].fill_(0.004)
    pair.run(2)
    pair.check()


@pytest.mark.skipif(DEVICE == "cuda", reason="the training is the CPU's")
def test_a_training_is_that_of_the_unroll_in_float64(name):
    (step,) = registry.FUSED_STEPS[type(create_rule(name))]
    check(in_place(name, step), exact(name), ROUNDING.get(name, 1e-5))


def test_bundled_weights_agree():
    for name in ("step-size-lstm", "digits-lstm"):
        pair = Pair(name, [(6, 5), (3,)], rule=from_pretrained(name).to(DEVICE))
        pair.run(2)
        pair.check()


def test_the_pace_of_a_matrix_far_from_its_average_is_bounded():
    pair = Pair("orthogonal-momentum", [(6, 5)], lr=0.05)
    for parameter in (one for parameters in pair.parameters for one in parameters):
        parameter.data.fill_(0.02)
    fixed = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    for _ in range(12):
        for parameters, optimizer in zip(pair.parameters, pair.optimizers, strict=True):
            parameters[0].grad = fixed.clone()
            optimizer.step()
    paces = [
        float(optimizer.state[parameters[0]]["scalars"][2])
        for parameters, optimizer in zip(pair.parameters, pair.optimizers, strict=True)
    ]
    # On a GPU, matrices are orthogonalised in bfloat16.
    assert paces[0] == pytest.approx(paces[1], abs=1e-4 if DEVICE == "cpu" else 0.05)
    assert 0 < paces[0] < 0.3  # 0.48 without the bound


def test_other_constants_of_orthogonal_momentum_are_followed():
    rule = create_rule("orthogonal-momentum")
    rule._constants = MomentumConstants(
        *(1.3, 0.6, 0.7, 0.8, 0.97, 5.0, 30.0, 0.7, 3.0), PaceConstants(3.0, 2.0, 0.05, 0.4, 0.2)
    )
    pair = Pair("orthogonal-momentum", [(6, 5), (3,)], rule=rule.to(DEVICE))
    pair.run(4)
    pair.check()


def test_weights_that_are_trained_in_place_are_followed(name):
    pair = Pair(name, [(5, 3), (4,)])
    pair.run(1)
    with torch.no_grad():
        for weight in pair.rule.parameters():
            weight.mul_(1.5)
    pair.run(2)
    pair.check()


@pytest.mark.parametrize("scale", [1e-18, 1e-12, 1e6, 1e15])
def test_gradients_of_any_scale_agree(name, scale):
    pair = Pair(name, [(9, 7), (5,), ()])
    pair.run(scale=scale)
    pair.check()


def test_half_precision_parameters_agree(name):
    pair = Pair(name, [(9, 7), (5,)], dtype=torch.bfloat16)
    pair.run(1)
    for a, b in zip(pair.copies(0), pair.copies(1), strict=True):
        # The interpreter cuts digits off where a GPU rounds, so the last one may differ.
        tolerance = 2**-7 if DEVICE == "cpu" else 2**-8
        is_rough = DEVICE == "cuda" and name == "orthogonal-momentum"
        torch.testing.assert_close(a, b, rtol=tolerance, atol=2e-3 if is_rough else 0)


def test_parameters_of_two_dtypes_take_one_step():
    rule = random_rule("step-size-lstm")
    sides = []
    for fused in (True, False):
        torch.manual_seed(1)
        wide = nn.Parameter(torch.randn(4, 3).to(DEVICE))
        half = nn.Parameter(torch.randn(5).to(DEVICE, torch.bfloat16))
        optimizer = LearnedOptimizer([half, wide], rule=rule, fused=fused, total_steps=9)
        torch.manual_seed(2)
        half.grad = torch.randn(5).to(DEVICE, torch.bfloat16)
        wide.grad = torch.randn(4, 3).to(DEVICE)
        optimizer.step(lambda: torch.tensor(1.0, device=DEVICE))
        sides.append((half, wide, optimizer.state[wide]["h"]))
    for a, b in zip(*sides, strict=True):
        tolerance = 2**-7 if a.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(a, b, rtol=tolerance, atol=1e-5)


def test_a_plan_is_followed():
    pair = Pair("orthogonal-momentum", [(5, 3), (4,)], total_steps=4)
    pair.run(4)
    pair.check()


def test_the_evaluation_average_agrees():
    pair = Pair("orthogonal-momentum", [(5, 3), (4,)])
    pair.run(4)
    for optimizer in pair.optimizers:
        optimizer.eval()
    pair.check()
    for optimizer in pair.optimizers:
        optimizer.train()
    pair.run(1)
    pair.check()


def test_kernels_of_many_shapes_are_orthogonalised_together():
    pair = Pair("orthogonal-momentum", [(6, 4), (4, 6), (6, 4), (4, 3, 2), (5,), (4, 6), (3, 128)])
    pair.run(2)
    pair.check()


def test_a_group_that_asks_for_adams_direction_gets_it():
    sides = []
    for fused in (True, False):
        torch.manual_seed(1)
        parameters = [nn.Parameter(torch.randn(6, 4).to(DEVICE)) for _ in range(2)]
        groups = [{"params": parameters[:1], "direction": "adam"}, {"params": parameters[1:]}]
        optimizer = LearnedOptimizer(groups, rule="orthogonal-momentum", fused=fused)
        for step in range(3):
            for parameter, gradient in zip(parameters, gradients(2 * [(6, 4)], step), strict=True):
                parameter.grad = gradient.to(DEVICE)
            optimizer.step()
        assert optimizer.state[parameters[0]]["v"].shape == (6, 4)
        sides.append(parameters)
    torch.testing.assert_close(sides[0][0], sides[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        sides[0][1], sides[1][1], rtol=0, atol=1e-5 if DEVICE == "cpu" else 1e-2
    )
