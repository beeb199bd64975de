"""CONFORMANCE.md, line 52, in two processes: a perceptron under `parallelize_module`."""

import torch
from processes import RANKS, on_two_processes
from spread_models import (
    assert_close,
    load,
    make_spread_rule,
    plan_of,
    save,
    whole_states,
    whole_weights,
)
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from learned_opt import LearnedOptimizer

PLACEMENTS = {
    "up.weight": Shard(0),
    "up.bias": Shard(0),
    "down.weight": Shard(1),
    "down.bias": Replicate(),
}


class Perceptron(nn.Module):
    """Two layers; each process gets 4 of the 8 hidden units."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, inputs):
        return self.down(self.up(inputs).tanh())


def make_perceptron(dtype, parallel):
    torch.manual_seed(0)
    model = Perceptron().to(dtype)
    if parallel:
        mesh = init_device_mesh("cpu", (RANKS,))
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        parallelize_module(model, mesh, plan)
    return model


def train(model, optimizer, steps):
    """Each process reads the whole batch."""
    dtype = next(model.parameters()).dtype
    inputs = torch.linspace(-1, 1.5, 40, dtype=dtype).reshape(8, 5)
    targets = torch.stack([inputs.prod(1), inputs.sum(1).sin()], dim=1)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        return loss.detach()

    return [float(optimizer.step(closure)) for _ in range(steps)]


def compare(make_optimizer, dtype, tolerance):
    """Train the perceptron in two processes and in one; weights and state must agree."""
    parallel, alone = (make_perceptron(dtype, parallel) for parallel in (True, False))
    optimizer, plain = (make_optimizer(model.parameters()) for model in (parallel, alone))
    for name, parameter in parallel.named_parameters():
        assert isinstance(parameter, DTensor) and parameter.placements == (PLACEMENTS[name],)
    begin = [weight.clone() for weight in whole_weights(alone)]
    losses, expected = train(parallel, optimizer, 6), train(alone, plain, 6)
    assert_close(losses, expected, tolerance)
    for before, after in zip(begin, whole_weights(alone), strict=True):
        assert float((after - before).abs().max()) > 100 * tolerance
    assert_close(whole_weights(parallel), whole_weights(alone), tolerance)
    assert_close(whole_states(parallel, optimizer), whole_states(alone, plain), tolerance)
    if optimizer.rule.averages:
        optimizer.eval()
        plain.eval()
        assert_close(whole_weights(parallel), whole_weights(alone), tolerance)


@on_two_processes
def test_52_rules_of_whole_tensors_step_a_tensor_parallel_perceptron(folder):
    for name in ("step-size-lstm", "orthogonal-momentum", "general"):
        rule = make_spread_rule(name, torch.float64)
        compare(
            lambda p, rule=rule: LearnedOptimizer(p, rule=rule, **plan_of(rule)), rule.dtype, 1e-12
        )


@on_two_processes
def test_52_the_default_steps_a_tensor_parallel_perceptron(folder):
    compare(LearnedOptimizer, torch.float32, 1e-6)


@on_two_processes
def test_52_a_tensor_parallel_perceptron_resumes_bitwise(folder):
    rule = make_spread_rule("step-size-lstm")

    def start(scale):
        model = make_perceptron(torch.float32, True)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
        return model, LearnedOptimizer(model.parameters(), rule=rule, **plan_of(rule))

    unbroken, optimizer = start(1.0)
    train(unbroken, optimizer, 2)
    save(folder, unbroken, optimizer)
    train(unbroken, optimizer, 2)
    resumed, again = start(2.0)
    load(folder, resumed, again)
    train(resumed, again, 2)
    assert_close(whole_weights(resumed), whole_weights(unbroken), 0)
    assert_close(whole_states(resumed, again), whole_states(unbroken, optimizer), 0)
