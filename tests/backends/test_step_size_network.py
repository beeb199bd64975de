"""The network of step-size-lstm in C computes what the rule computes."""

import copy

import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.c_library import load_library
from learned_opt.rules import Context

pytestmark = pytest.mark.skipif(load_library() is None, reason="the C library was not compiled")


def random_rule(**settings):
    torch.manual_seed(0)
    rule = create_rule("step-size-lstm", **settings)
    with torch.no_grad():
        for weight in rule.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    return rule


def drawn(seed, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(rule, shapes, losses, steps=6, total_steps=50, skip=()):
    """Parameters and state by C, by the rule, and by the rule in double precision.

    Args:
        losses: of each step; None for a step without.
        skip: tensors whose gradient is zero in the first three steps.
    """
    exact = copy.deepcopy(rule).double()
    ends = []
    for fused in (True, False):
        parameters = [nn.Parameter(0.3 * drawn(k, shape)) for k, shape in enumerate(shapes)]
        optimizer = LearnedOptimizer(
            parameters, 0.01, rule=rule, fused=fused, total_steps=total_steps
        )
        for step in range(steps):
            for k, parameter in enumerate(parameters):
                parameter.grad = gradient(step, k, shapes, skip)
            loss = losses[step % len(losses)]
            optimizer.step(None if loss is None else lambda loss=loss: torch.tensor(loss))
        ends.append([[p.detach(), *optimizer.state[p].values()] for p in parameters])
    values = [(0.3 * drawn(k, shape)).double() for k, shape in enumerate(shapes)]
    states = [exact.init_state(value) for value in values]
    planned = torch.tensor(float(total_steps), dtype=torch.float64)
    for step in range(steps):
        loss = losses[step % len(losses)]
        loss = None if loss is None else torch.tensor(loss).double()
        gradients = [gradient(step, k, shapes, skip).double() for k in range(len(shapes))]
        with torch.no_grad():
            deltas, states = exact(gradients, values, states, Context(loss, planned))
        values = [value + 0.01 * delta for value, delta in zip(values, deltas, strict=True)]
    ends.append([[v, *state.values()] for v, state in zip(values, states, strict=True)])
    return ends


def gradient(step, k, shapes, skip):
    return drawn(1000 * step + k + 7, shapes[k]) * float(k not in skip or step > 2)


MANY = [(k % 4 + 1, k % 3 + 1) if k % 2 else (k % 5 + 1,) for k in range(150)]
FEW = [(30, 7), (7,), (), (2, 3, 4)]


@pytest.mark.filterwarnings("ignore:step 4 is past")
@pytest.mark.parametrize(
    ("settings", "shapes", "options"),
    [
        ({}, MANY, {}),
        ({"hidden_size": 1}, FEW, {}),
        ({"hidden_size": 37}, FEW, {}),
        ({"parameter_scale": True}, FEW, {}),
        ({}, FEW, {"losses": [None]}),
        ({}, FEW, {"losses": [2.0, 1.0, -0.5, 0.0]}),
        ({}, FEW, {"losses": [None, None, 3.0]}),
        ({}, FEW, {"skip": (0, 2)}),
        ({}, FEW, {"total_steps": 3}),
        ({}, FEW, {"total_steps": 2000}),
    ],
    ids=str,
)
def test_c_is_as_exact_as_the_rule(settings, shapes, options):
    found, own, exact = run(random_rule(**settings), shapes, **{"losses": [1.5, 1.2], **options})
    for mine, theirs, true in zip(found, own, exact, strict=True):
        for a, b, c in zip(mine, theirs, true, strict=True):
            scale = max(1.0, float(c.abs().max()))
            off_c, off_rule = (float((x - c).abs().max()) / scale for x in (a, b))
            # Sums cancel where the parts of a mix do.
            assert off_c <= 2 * off_rule + 1e-5
            assert off_rule < 1e-4


def test_idle_tensors_keep_their_memory():
    rule = random_rule()
    parameters = [nn.Parameter(drawn(1, (3, 4))), nn.Parameter(drawn(2, (3, 4)))]
    optimizer = LearnedOptimizer(parameters, rule=rule, fused=True, total_steps=9)
    parameters[0].grad, parameters[1].grad = torch.zeros(3, 4), drawn(3, (3, 4))
    fresh = {key: value.clone() for key, value in rule.init_state(parameters[0]).items()}
    optimizer.step(lambda: torch.tensor(1.5))
    idle, other = (optimizer.state[parameter] for parameter in parameters)
    for key in ("h", "c", "scalars"):
        assert torch.equal(idle[key], fresh[key])
        assert not torch.equal(other[key], fresh[key])
    assert float(idle["step"]) == 1


@pytest.mark.filterwarnings("ignore:the update of")
@pytest.mark.parametrize("key", ["h", "c", "scalars", "step"])
def test_spoilt_memory_moves_nothing_that_the_rule_would_not(key):
    rule, counts = random_rule(), []
    for fused in (True, False):
        parameter = nn.Parameter(drawn(1, (3, 4)))
        optimizer = LearnedOptimizer([parameter], rule=rule, fused=fused, total_steps=9)
        parameter.grad = drawn(2, (3, 4))
        optimizer.step(lambda: torch.tensor(1.5))
        before = parameter.detach().clone()
        optimizer.state[parameter][key].view(-1).data[-1] = float("nan")
        optimizer.step(lambda: torch.tensor(1.5))
        assert torch.equal(parameter.detach(), before)
        counts.append(optimizer.skipped_updates)
    assert counts == [1, 1]
