"""The three drivers of a rule give the same numbers, and the same meta-gradients.

In place (`LearnedOptimizer`), the unroll (`InnerLoop`, one run and several at once), and `higher`;
and, for first derivatives, a loop that a reader could have written.
"""

import higher
import pytest
import torch
from conftest import make_batch, make_model, make_rule, model_loss, train
from torch.func import functional_call

import learned_opt.differentiable  # noqa: F401
from learned_opt import LearnedOptimizer
from learned_opt.functional import apply_rule
from learned_opt.rules import Context
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import stack, start
from meta_train.tasks import Problem

STEPS = 20
DTYPE = torch.float64
BATCH = make_batch(DTYPE)
SKELETON = make_model(DTYPE)
OPTIONS = {"lr": 0.1, "weight_decay": 0.01}


def options_for(rule):
    """At fifteen times its learning rate, orthogonalising makes chaos of rounding errors."""
    return {**OPTIONS, "lr": rule.default_lr} if rule.averages else OPTIONS


PLANNED = 50
"""Planned number of steps, for rules that need it."""


def loss_of(parameters, buffers, batch):
    inputs, targets = batch
    output = functional_call(SKELETON, parameters, (inputs,))
    return torch.nn.functional.mse_loss(output, targets), buffers


def make_problem(seed):
    parameters = dict(make_model(DTYPE, seed).named_parameters())
    return Problem(parameters, {}, loss_of, lambda _: BATCH, lambda: BATCH)


@pytest.fixture
def rule(rule_name):
    return make_rule(rule_name, DTYPE, spread=0.2)


def unrolled(rule, seeds, vectorize, **settings):
    """Losses `[steps, *runs]` and the last state."""
    loop = InnerLoop(rule, loss_of, vectorize, total_steps=PLANNED, **options_for(rule), **settings)
    inner = start(rule, [make_problem(seed) for seed in seeds], vectorize=vectorize)
    batch = stack([BATCH] * len(seeds)) if vectorize else BATCH
    losses = []
    for _ in range(STEPS):
        inner, loss = loop.step(inner, batch)
        losses.append(loss)
    return torch.stack(losses), inner


def through_higher(rule, seed, second_order=False):
    """Losses, the last parameters and states, and the optimizee's initial parameters."""
    model = make_model(DTYPE, seed)
    optimizer = LearnedOptimizer(
        model.parameters(), rule=rule, total_steps=PLANNED, **options_for(rule)
    )
    with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (fast, diffopt):
        diffopt.second_order = second_order
        losses = []
        for _ in range(STEPS):
            loss = model_loss(fast, DTYPE)
            losses.append(loss)
            diffopt.step(loss)
        parameters = list(fast.parameters())
        states = [diffopt.state[0][k] for k in range(len(parameters))]
    return torch.stack(losses), parameters, states, list(model.parameters())


def close(left, right):
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


def test_losses_parameters_and_states_agree(rule, seed=1):
    model = make_model(DTYPE, seed)
    optimizer = LearnedOptimizer(
        model.parameters(), rule=rule, total_steps=PLANNED, **options_for(rule)
    )
    losses = torch.tensor(train(model, optimizer, STEPS), dtype=DTYPE)
    parameters = [p.detach() for p in model.parameters()]
    states = [dict(optimizer.state[p]) for p in model.parameters()]
    assert losses[-1] != losses[0]

    for vectorize, second_order in [(False, False), (True, False), (False, True), (True, True)]:
        seeds = [0, 1] if vectorize else [seed]
        seen, inner = unrolled(rule, seeds, vectorize, second_order=second_order)
        if vectorize:
            seen = seen[:, seed]
            inner = torch.utils._pytree.tree_map(
                lambda t: t[seed], [inner.parameters, inner.states]
            )
        else:
            inner = [inner.parameters, inner.states]
        close(seen.detach(), losses)
        close([value.detach() for value in inner[0].values()], parameters)
        close(_detached(list(inner[1].values())), states)

    seen, fast, fast_states, _ = through_higher(rule, seed)
    close(seen.detach(), losses)
    close([value.detach() for value in fast], parameters)
    close(_detached(fast_states), states)


def _detached(states):
    return [{key: value.detach() for key, value in state.items()} for state in states]


def meta_gradients(total, rule, initial):
    leaves = [*rule.parameters(), *initial]
    return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)


def from_unroll(rule, vectorize, second_order):
    seeds = [0, 1]
    problems = [make_problem(seed) for seed in seeds]
    options = {"second_order": second_order, "total_steps": PLANNED, **options_for(rule)}
    loop = InnerLoop(rule, loss_of, vectorize, **options)
    total = 0.0
    groups = [problems] if vectorize else [[problem] for problem in problems]
    for group in groups:
        inner = start(rule, group, vectorize=vectorize)
        for _ in range(STEPS):
            inner, loss = loop.step(inner, stack([BATCH] * 2) if vectorize else BATCH)
            total = total + loss.sum()
    return meta_gradients(total, rule, [v for p in problems for v in p.parameters.values()])


def from_higher(rule, second_order):
    runs = [through_higher(rule, seed, second_order) for seed in (0, 1)]
    return meta_gradients(sum(r[0].sum() for r in runs), rule, [v for r in runs for v in r[3]])


def from_a_plain_loop(rule):
    """With inner gradients as constants; autograd does the rest."""
    total, initial = 0.0, []
    for seed in (0, 1):
        parameters = dict(make_model(DTYPE, seed).named_parameters())
        initial += parameters.values()
        states = [rule.init_state(value) for value in parameters.values()]
        for _ in range(STEPS):
            loss, _ = loss_of(parameters, {}, BATCH)
            total = total + loss
            values = list(parameters.values())
            gradients = [g.detach() for g in torch.autograd.grad(loss, values, retain_graph=True)]
            context = Context(loss=loss.detach(), total_steps=torch.tensor(PLANNED, dtype=DTYPE))
            moved, states = apply_rule(
                rule, gradients, values, states, context, **options_for(rule)
            )
            parameters = dict(zip(parameters, moved, strict=True))
    return meta_gradients(total, rule, initial)


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("second_order", [False, True])
def test_meta_gradients_of_unroll_and_higher_agree(rule, second_order, vectorize):
    expected = from_higher(rule, second_order)
    close(from_unroll(rule, vectorize, second_order), expected)
    assert all(gradient.abs().max() > 0 for gradient in expected)


@pytest.mark.parametrize("vectorize", [False, True])
def test_first_order_meta_gradients_are_those_of_a_plain_loop(rule, vectorize):
    close(from_unroll(rule, vectorize, second_order=False), from_a_plain_loop(rule))


def test_second_order_makes_a_difference(rule):
    first, second = (from_unroll(rule, False, second_order) for second_order in (False, True))
    assert not torch.allclose(first[-1], second[-1], rtol=1e-4)


def test_second_order_meta_gradients_are_those_of_finite_differences(rule_name):
    # A loss that a rule reads is a constant to it, so the rule must not read it here.
    settings = {"gated-lstm": {"use_loss": False}, "adam-lstm": {"differentiate_inputs": True}}
    rule = make_rule(rule_name, DTYPE, spread=0.2, **settings.get(rule_name, {}))
    problem = make_problem(0)
    leaf = [*problem.parameters.values(), *rule.parameters()][-1]

    def total():
        inner, losses = start(rule, [problem], vectorize=False), 0.0
        loop = InnerLoop(
            rule,
            loss_of,
            False,
            second_order=True,
            total_steps=PLANNED,
            hide_loss=True,
            **options_for(rule),
        )
        for _ in range(5):
            inner, loss = loop.step(inner, BATCH)
            losses = losses + loss
        return losses

    (gradient,) = torch.autograd.grad(total(), leaf)
    h, flat = 1e-6, leaf.data.view(-1)
    for k in range(min(3, len(flat))):
        around = []
        for offset in (h, -2 * h):
            flat[k] += offset
            around.append(total().item())
        flat[k] += h
        slope = (around[0] - around[1]) / (2 * h)
        assert gradient.reshape(-1)[k].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)
