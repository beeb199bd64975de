"""Without a gradient an update dies with the momentum; a vanishing gradient moves nothing."""

import math

import pytest
import torch
from conftest import make_model, make_rule, model_loss, same, train

from learned_opt import LearnedOptimizer, from_pretrained, list_rules
from learned_opt.rules import Context
from learned_opt.rules.parts.features import known_share

RULES = [*list_rules(), "digits-lstm"]
COORDINATE_LSTMS = ["lstm", "gated-lstm", "momentum-gated-lstm", "adam-lstm", "digits-lstm"]


def make(name):
    rule = from_pretrained(name) if name == "digits-lstm" else make_rule(name, spread=0.1)
    return rule.requires_grad_(False)


def positions(rule, gradients):
    parameter = torch.ones(1)
    state = rule.init_state(parameter)
    context = Context(loss=torch.tensor(1.0), total_steps=torch.tensor(2000.0))
    found = []
    for gradient in gradients:
        (delta,), (state,) = rule([torch.full((1,), gradient)], [parameter], [state], context)
        parameter = parameter + rule.default_lr * delta
        found.append(parameter.item())
    return found


@pytest.mark.parametrize("name", RULES)
def test_without_a_gradient_the_update_dies(name):
    found = positions(make(name), [1.0] * 10 + [0.0] * 2000)
    assert found[9] != 1  # it moved
    assert found[-1] == pytest.approx(found[300], abs=1e-3)


@pytest.mark.parametrize("name", COORDINATE_LSTMS)
def test_where_gradients_stop_a_network_goes_on_for_tens_of_steps_only(name):
    found = positions(make(name), [1.0] * 10 + [0.0] * 200)
    steps = [abs(after - before) for before, after in zip(found, found[1:], strict=False)]
    assert max(steps[9:19]) > 1e-3
    assert max(steps[69:]) < 1e-3
    assert max(steps[109:]) < 3e-4


@pytest.mark.parametrize("name", COORDINATE_LSTMS)
def test_embedding_rows_that_are_seen_no_more_stay_where_they_are(name):
    """A thousand steps without a gradient; what is left is the way of the first tens of them."""
    rule, random = make(name), torch.Generator().manual_seed(0)
    rows = begun = torch.randn(100, 8, generator=random)
    state, context = rule.init_state(rows), Context(loss=torch.tensor(1.0))
    for step in range(1020):
        gradient = 1e-2 * torch.randn(100, 8, generator=random) * (step < 20)
        if step == 20:
            begun = rows
        (delta,), (state,) = rule([gradient], [rows], [state], context)
        rows = rows + rule.default_lr * delta
    assert (rows - begun).norm() < 0.6 * begun.norm()


def test_an_update_fades_below_a_thousandth_of_the_smallest_size_that_is_told():
    known = 1e-3 * math.exp(-10)  # 4.5e-8
    shares = known_share(torch.tensor([2 * known, known, known / 2, known / 8, 0.0]), 10.0)
    torch.testing.assert_close(shares, torch.tensor([1.0, 1.0, 0.5, 0.125, 0.0]))


@pytest.mark.parametrize("name", COORDINATE_LSTMS)
def test_gradients_of_unknown_size_move_nothing(name):
    rule = make(name)
    signs = torch.randn(100, generator=torch.Generator().manual_seed(0)).sign().tolist()
    assert positions(rule, [1e-15 * sign for sign in signs])[-1] == pytest.approx(1, abs=1e-4)
    assert abs(positions(rule, [1e-5 * sign for sign in signs])[-1] - 1) > 1e-3


@pytest.mark.parametrize("name", COORDINATE_LSTMS)
def test_a_loss_far_too_small_leaves_the_model_as_it_is(name):
    model = make_model()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = LearnedOptimizer(model.parameters(), rule=make(name))
    for _ in range(200):
        optimizer.zero_grad()
        loss = 1e-13 * model_loss(model)
        loss.backward()
        optimizer.step(lambda loss=loss: loss)
    for parameter, start in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), start, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", ["lstm", "gated-lstm", "momentum-gated-lstm"])
def test_the_published_rule_stands_where_gradients_are(name):
    """The factor is exactly 1 down to gradients of 1e-7, and for 20 steps without one."""
    ones = known_share(torch.tensor([1e-7, 1.0, 1e30, 2.0**-20]), 10.0)
    assert ones.tolist() == [1.0] * 4
    state = make(name).init_state(torch.ones(1))
    _, (state,) = make(name)([torch.ones(1)], [torch.ones(1)], [state], Context(torch.tensor(1.0)))
    assert state["recent"].tolist() == [1.0]
    _, (state,) = make(name)([torch.zeros(1)], [torch.ones(1)], [state], Context(torch.tensor(1.0)))
    assert state["recent"].tolist() == [0.5]


@pytest.mark.parametrize("name", ["lstm", "gated-lstm", "momentum-gated-lstm"])
def test_a_checkpoint_from_before_the_fade_loads(name):
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), rule=make(name))
    train(model, optimizer, 2)
    saved = optimizer.state_dict()
    old = {
        **saved,
        "state": {
            key: {name: value for name, value in state.items() if name != "recent"}
            for key, state in saved["state"].items()
        },
    }
    optimizer.load_state_dict(old)
    for key, parameter in enumerate(model.parameters()):
        state = dict(optimizer.state[parameter])
        assert state.pop("recent").tolist() == torch.zeros(parameter.shape).tolist()
        assert same(state, old["state"][key])
    train(model, optimizer, 1)
    del old["state"][0]["step"]
    with pytest.raises(ValueError, match="has no 'step'"):
        optimizer.load_state_dict(old)
