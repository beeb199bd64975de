"""The same models on one and on two processes, and helpers that compare them."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from conftest import make_rule
from processes import RANKS
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from learned_opt import LearnedOptimizer

RULES = [
    "adam",
    "lstm",
    "adam-lstm",
    "gated-lstm",
    "orthogonal-momentum",
    "step-size-lstm",
    "general",
]


def make_spread_rule(name, dtype=torch.float32):
    """A rule; `general` with random weights and an LSTM, since it is its base before training."""
    settings = {"spread": 0.1, "hidden_size": 4, "coordinate_size": 3} if name == "general" else {}
    return make_rule(name, dtype, **settings)


def make_model(seed=0, dtype=torch.float32):
    """Shards of unequal size, and empty ones on the second process: weight [1, 5], bias [1]."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)


def plan_of(rule):
    """A planned number of steps, for rules that cannot do without."""
    return {"total_steps": 100} if rule.required_context() else {}


def make_sharded(rule, seed=0):
    model = make_model(seed, rule.dtype)
    mesh = init_device_mesh("cpu", (RANKS,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, LearnedOptimizer(model.parameters(), rule=rule, **plan_of(rule))


def make_replicated(rule, seed=0):
    model = DistributedDataParallel(make_model(seed))
    return model, LearnedOptimizer(model.parameters(), rule=rule, **plan_of(rule))


def make_alone(rule, seed=0):
    model = make_model(seed, rule.dtype)
    return model, LearnedOptimizer(model.parameters(), rule=rule, **plan_of(rule))


def train(model, optimizer, steps, alone=False):
    """Each process reads its half of a batch; all give the optimizer the whole batch's loss."""
    dtype = next(model.parameters()).dtype
    inputs = torch.linspace(-1, 1.5, 24, dtype=dtype).reshape(8, 3)
    targets = inputs.prod(1, keepdim=True)
    mine = slice(None) if alone else slice(dist.get_rank(), None, RANKS)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs[mine]), targets[mine])
        loss.backward()
        loss = loss.detach()
        if not alone:
            dist.all_reduce(loss)
            loss /= RANKS
        return loss

    for _ in range(steps):
        optimizer.step(closure)


def snapshot(model, optimizer):
    """The weights and the state; of sharded tensors, the part of this process."""
    parameters = list(model.parameters())
    states = [optimizer.state[parameter] for parameter in parameters]
    return [
        [part(parameter) for parameter in parameters],
        [{key: part(value) for key, value in state.items()} for state in states],
    ]


def part(tensor):
    tensor = tensor.detach()
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).clone()


def whole(tensor):
    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def whole_weights(model):
    return [whole(parameter) for parameter in model.parameters()]


def whole_states(model, optimizer):
    states = [optimizer.state[parameter] for parameter in model.parameters()]
    return [whole(value) for state in states for value in state.values()]


def save(folder, model, optimizer, **how):
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
    }
    dcp.save(state, checkpoint_id=folder, **how)


def load(folder, model, optimizer, **how):
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
    }
    dcp.load(state, checkpoint_id=folder, **how)
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])


def assert_close(actual, expected, tolerance=1e-6):
    for left, right in zip(actual, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=tolerance)


def refusal(kind, function, *arguments, **settings):
    """The error message of a call."""
    with pytest.raises(kind) as caught:
        function(*arguments, **settings)
    return str(caught.value)
