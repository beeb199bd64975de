import math

import pytest
import torch

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.rules.learned_constants import LEARNED


def trained(rule, steps=30):
    parameters = [
        torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(k)).double())
        for k, shape in enumerate([(4, 6), (5,), (3, 2, 2)])
    ]
    optimizer = LearnedOptimizer(parameters, rule=rule.double(), fused=False)
    random = torch.Generator().manual_seed(9)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=random).double() + 0.3
        optimizer.step()
    training = [p.detach().clone() for p in parameters]
    optimizer.eval()
    return training + [p.detach().clone() for p in parameters]


def with_shifts(**shifts):
    rule = create_rule("learned-constants")
    for name, shift in shifts.items():
        rule.shifts.data[list(LEARNED).index(name.replace("__", "."))] = shift
    return rule


def test_untrained_it_is_orthogonal_momentum():
    own, base = (
        trained(create_rule(name)) for name in ("learned-constants", "orthogonal-momentum")
    )
    for a, b in zip(own, base, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("setting", "value", "shift"),
    [
        ("momentum", 0.9, math.log(0.8 / 0.2 / 9) / 2),
        ("warm_up", 10.0, math.log(10 / 20) / 4),
        ("decay_after", 100.0, math.log(100 / 50) / 3),
    ],
)
def test_a_shift_sets_a_constant(setting, value, shift):
    own = trained(with_shifts(**{setting: shift}).double())
    base = trained(create_rule("orthogonal-momentum", **{setting: value}))
    for a, b in zip(own, base, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", list(LEARNED))
def test_every_meta_parameter_has_an_effect_and_a_derivative(name):
    rule = create_rule("learned-constants").double()
    parameters = [torch.full((3, 4), 0.3), torch.full((5,), 0.2)]
    parameters = [p.double() for p in parameters]
    states = [rule.init_state(p) for p in parameters]
    total = torch.zeros((), dtype=torch.float64)
    for k in range(40):
        # The first tensor's gradients keep their direction, the second's turn back at every step.
        gradients = [torch.ones(3, 4).double() + 0.1, (-1) ** k * torch.ones(5).double()]
        gradients[0][0, k % 4] += 3
        deltas, states = rule(gradients, parameters, states)
        parameters = [p + 0.01 * d for p, d in zip(parameters, deltas, strict=True)]
        total = total + sum(p.square().sum() for p in parameters)
    for p, state in zip(parameters, states, strict=True):
        total = total + rule.evaluation_point(p, state)[0].square().sum()
    (gradient,) = torch.autograd.grad(total, [rule.shifts])
    assert gradient.isfinite().all()
    bound = name.startswith("pace.fastest")  # has an effect where the bound is reached
    assert bound or float(gradient[list(LEARNED).index(name)]) != 0
