"""Pairs of an optimizer that steps in Triton and one that steps by the rule."""

import os

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.backends import registry
from learned_opt.backends.triton.adam_lstm import AdamLSTMInTriton
from learned_opt.backends.triton.orthogonal import OrthogonalMomentumInTriton
from learned_opt.backends.triton.step_size import StepSizeInTriton
from learned_opt.rules.adam_lstm import AdamLSTM
from learned_opt.rules.orthogonal_momentum import OrthogonalMomentum
from learned_opt.rules.step_size_lstm import StepSizeLSTM

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"

# Blocks have 2048 elements in step-size-lstm and 512 in adam-lstm: one tensor has two and a rest.
SHAPES = {
    "step-size-lstm": [(70, 65), (70,), (), (0,), (2, 3, 4), (1, 1)],
    "adam-lstm": [(41, 26), (7,), (), (0,), (2, 3)],
    "orthogonal-momentum": [(70, 65), (2100,), (), (0,), (4, 3, 2), (6, 4), (1, 5)],
}

SMALL = {
    "step-size-lstm": {"hidden_size": 5},
    "adam-lstm": {"hidden_size": 3, "betas": (0.9, 0.5, 0.99)},
    "orthogonal-momentum": {},
}


def random_rule(name, **settings):
    torch.manual_seed(0)
    rule = create_rule(name, **(settings or SMALL[name]))
    with torch.no_grad():
        for weight in rule.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    return rule.to(DEVICE)


def gradients(shapes, step, scale=1.0):
    torch.manual_seed(100 + step)
    return [scale * torch.randn(shape) for shape in shapes]


class Pair:
    """Two optimizers on equal parameters: one fused, one by the rule."""

    def __init__(self, name, shapes=None, groups=1, dtype=torch.float32, rule=None, **options):
        self.rule = rule or random_rule(name)
        self.shapes = shapes or SHAPES[name]
        if "total_steps" in self.rule.required_context():
            options["total_steps"] = 50
        self.parameters, self.optimizers = [], []
        for fused in (True, False):
            torch.manual_seed(1)
            values = [(0.3 * torch.randn(shape)).to(DEVICE, dtype) for shape in self.shapes]
            parameters = [nn.Parameter(value) for value in values]
            split = [{"params": parameters[k::groups], "lr": 0.01 * (k + 1)} for k in range(groups)]
            given = split if groups > 1 else parameters
            self.parameters.append(parameters)
            self.optimizers.append(LearnedOptimizer(given, rule=self.rule, fused=fused, **options))

    def step(self, grads, loss=1.5):
        for parameters, optimizer in zip(self.parameters, self.optimizers, strict=True):
            for parameter, gradient in zip(parameters, grads, strict=True):
                parameter.grad = gradient.to(DEVICE, parameter.dtype)
            optimizer.step(lambda: torch.tensor(loss, device=DEVICE))

    def run(self, steps=3, scale=1.0):
        for step in range(steps):
            self.step(gradients(self.shapes, step, scale), 1.5 - 0.1 * step)

    def check(self, rtol=1e-5, atol=1e-5):
        one, two = self.optimizers
        for a, b in zip(*self.parameters, strict=True):
            # On a GPU, matrices are orthogonalised in bfloat16, which magnifies rounding.
            is_rough = DEVICE == "cuda" and "average" in one.state[a] and a.dim() > 1
            rough = {"rtol": 0, "atol": 1e-2} if is_rough else {"rtol": rtol, "atol": atol}
            torch.testing.assert_close(a, b, **rough)
            assert one.state[a].keys() == two.state[b].keys()
            for key, value in one.state[a].items():
                close = rough if key == "average" else {"rtol": rtol, "atol": atol}
                torch.testing.assert_close(value, two.state[b][key], **close)

    def copies(self, side):
        return [p.detach().clone() for p in self.parameters[side]]


@pytest.fixture(autouse=True)
def only_triton(monkeypatch):
    """On the CPU, C would be the first choice."""
    rows = {
        StepSizeLSTM: (StepSizeInTriton,),
        AdamLSTM: (AdamLSTMInTriton,),
        OrthogonalMomentum: (OrthogonalMomentumInTriton,),
    }
    assert all(row[0] in registry.FUSED_STEPS[rule] for rule, row in rows.items())
    monkeypatch.setattr(registry, "FUSED_STEPS", rows)


@pytest.fixture(params=SHAPES)
def name(request):
    return request.param


def everything(pair, side):
    """Copies of all parameters, and of all state but of `step`."""
    states = pair.optimizers[side].state
    return [
        [parameter.detach().clone(), *(v.clone() for v in states[parameter].values())]
        for parameter in pair.parameters[side]
    ]
