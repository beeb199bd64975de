"""One small training by each driver and each code that steps a rule in place."""

from functools import cache
from unittest import mock

import higher
import torch
from conftest import make_batch, make_model, make_rule, model_loss, train
from torch.func import functional_call

import learned_opt.differentiable  # noqa: F401
from learned_opt import LearnedOptimizer, create_rule, list_rules
from learned_opt.backends.registry import FUSED_STEPS
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import stack, start
from meta_train.tasks import Problem

STEPS = 10
OPTIONS = {"weight_decay": 0.01, "total_steps": 50}
ROUNDING = {"lstm": 1e-4, "step-size-lstm": 1e-4}
"""Tolerances where they are not 1e-5: of losses that react more strongly to a step."""
CODES = {
    name: {
        step.code: step
        for step in FUSED_STEPS.get(type(create_rule(name)), ())
        if step.code != "Triton"
    }
    for name in list_rules()
}


def rule_of(name, dtype):
    return make_rule(name, dtype, spread=0.2)


def rate(rule):
    """At fifteen times its learning rate, orthogonalising makes chaos of rounding errors."""
    return rule.default_lr if rule.averages else 0.1


def in_place(name, step):
    """By faster code of this class, or by the rule's own code."""
    rule, model = rule_of(name, torch.float32), make_model()
    steps = [] if step is None else [step()]
    with mock.patch("learned_opt.optimizer.fused.fused_steps", lambda rule: steps):
        optimizer = LearnedOptimizer(
            model.parameters(), rule=rule, lr=rate(rule), fused=bool(steps), **OPTIONS
        )
        losses = train(model, optimizer, STEPS)
    states = [dict(optimizer.state[p]) for p in model.parameters()]
    return losses, list(model.parameters()), states


def unrolled(name, dtype, runs=1):
    rule, skeleton, batch = rule_of(name, dtype), make_model(dtype), make_batch(dtype)

    def loss_of(parameters, buffers, batch):
        output = functional_call(skeleton, parameters, (batch[0],))
        return torch.nn.functional.mse_loss(output, batch[1]), buffers

    problems = [
        Problem(
            dict(make_model(dtype, seed).named_parameters()),
            {},
            loss_of,
            lambda _: batch,
            lambda: batch,
        )
        for seed in range(runs)
    ]
    several = runs > 1
    loop = InnerLoop(rule, loss_of, several, lr=rate(rule), **OPTIONS)
    inner, losses = start(rule, problems, vectorize=several), []
    for _ in range(STEPS):
        inner, loss = loop.step(inner, stack([batch] * runs) if several else batch)
        losses.append(loss[0].item() if several else loss.item())
    parameters, states = list(inner.parameters.values()), list(inner.states.values())
    if several:
        parameters, states = torch.utils._pytree.tree_map(lambda t: t[0], (parameters, states))
    return losses, parameters, states


def through_higher(name):
    rule, model = rule_of(name, torch.float32), make_model()
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, lr=rate(rule), **OPTIONS)
    losses = []
    with higher.innerloop_ctx(model, optimizer) as (fast, training):
        for _ in range(STEPS):
            loss = model_loss(fast)
            losses.append(loss.item())
            training.step(loss)
        parameters = list(fast.parameters())
    return losses, parameters, [training.state[0][k] for k in range(len(parameters))]


def follow(name, way):
    """Losses, parameters and states of a training."""
    if way == "higher":
        return through_higher(name)
    if way.startswith("unroll"):
        return unrolled(name, torch.float32, runs=2 if way == "unroll of two" else 1)
    return in_place(name, CODES[name].get(way))


@cache
def exact(name):
    return unrolled(name, torch.float64)


def check(found, expected, tolerance):
    """Hold losses, parameters and states to float64's."""
    close = {"rtol": tolerance, "atol": tolerance}
    losses, parameters, states = found
    assert expected[0][-1] != expected[0][0]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected[0]), **close)
    for one, other in zip(parameters, expected[1], strict=True):
        torch.testing.assert_close(one.detach().double(), other.detach(), **close)
    for one, other in zip(states, expected[2], strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            torch.testing.assert_close(one[key].detach().double(), value.detach().double(), **close)
