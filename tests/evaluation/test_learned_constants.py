"""The rule and the command that meta-train the constants of orthogonalised momentum."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from learned_opt import LearnedOptimizer, create_rule

QUALITY = Path(__file__).parents[2] / "benchmarks" / "quality"


@pytest.fixture(scope="module")
def module():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(QUALITY)
        import learned_constants

        yield learned_constants
        del sys.modules["learned_constants"]


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


NAMES = [
    *("matrix_step", "vector_step", "momentum", "first_beta", "second_beta", "warm_up"),
    *("decay_after", "decay_power", "averaging", "pace.rise", "pace.fall", "pace.noise"),
    *("pace.fastest_matrix", "pace.fastest_vector"),
]


def test_untrained_it_is_orthogonal_momentum(module):
    own, base = trained(module.LearnedConstants()), trained(create_rule("orthogonal-momentum"))
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
def test_a_shift_sets_a_constant(module, setting, value, shift):
    rule = module.LearnedConstants().double()
    rule.shifts.data[NAMES.index(setting)] = shift
    own = trained(rule)
    base = trained(create_rule("orthogonal-momentum", **{setting: value}))
    for a, b in zip(own, base, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_every_meta_parameter_has_an_effect_and_a_derivative(module, name):
    rule = module.LearnedConstants().double()
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
    assert bound or float(gradient[NAMES.index(name)]) != 0


CONFIG = """
families: {families: {quadratic: {}}}
train:
  {estimator: es, estimator_settings: {sigma: 0.2, soft_sign: 0.1}, outer_steps: 2, runs: 2,
   horizons: [5], objective: log-last, objective_data: full, checkpoint_every: 1}
"""


def test_the_command_writes_constants_that_can_be_read_in_part(module, tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text(CONFIG)
    out = tmp_path / "run"
    monkeypatch.setattr(
        sys, "argv", ["x", "--config", str(tmp_path / "config.yaml"), "--out", str(out)]
    )
    module.main()
    written = json.loads((out / "constants.json").read_text())
    assert list(written) == NAMES
    assert written["matrix_step"] != 1 and written["pace.rise"] != 0.9
    half = module.read_constants(out / "constants.json", 0.5)
    assert half.momentum == pytest.approx((written["momentum"] + 0.8) / 2)
    assert half.pace.noise == pytest.approx((written["pace.noise"] + 0.2) / 2)
    module.main()  # nothing is left to do
    assert json.loads((out / "constants.json").read_text()) == written
