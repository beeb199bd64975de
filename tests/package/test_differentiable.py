"""`higher` with learned optimizers, as a user would call it."""

import importlib
import sys

import higher
import pytest
import torch
from conftest import make_model, make_rule, model_loss, same, train
from torch import nn

import learned_opt.differentiable  # noqa: F401
from learned_opt import LearnedOptimizer
from learned_opt.differentiable import DifferentiableLearnedOptimizer


def test_innerloop_ctx_takes_any_rule_and_gradients_reach_its_weights(rule):
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, total_steps=100)
    before = [p.detach().clone() for p in model.parameters()]
    with higher.innerloop_ctx(model, optimizer) as (fast, diffopt):
        assert isinstance(diffopt, DifferentiableLearnedOptimizer)
        for _ in range(3):
            diffopt.step(model_loss(fast))
        loss = model_loss(fast)
        loss.backward() if loss.requires_grad else None
    assert all(w.grad is not None and w.grad.isfinite().all() for w in rule.parameters())
    assert any(w.grad.abs().max() > 0 for w in rule.parameters()) or not list(rule.parameters())
    assert same([p.detach() for p in model.parameters()], before)
    if not list(rule.parameters()):  # a rule with random weights need not descend
        assert loss < model_loss(model)


def test_the_inner_loop_starts_from_the_optimizers_state(rule):
    model = make_model(torch.float64)
    rule.double()
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, total_steps=100)
    train(model, optimizer, 3)
    with higher.innerloop_ctx(model, optimizer) as (fast, diffopt):
        for _ in range(2):
            diffopt.step(model_loss(fast, torch.float64))
        after = [p.detach() for p in fast.parameters()]
        assert [int(diffopt.state[0][k]["step"]) for k in range(4)] == [5] * 4
    assert all(optimizer.state[p]["step"] == 3 for p in model.parameters())
    train(model, optimizer, 2)
    expected = [p.detach() for p in model.parameters()]
    torch.testing.assert_close(after, expected, rtol=1e-12, atol=1e-12)


def test_a_rule_that_reads_the_loss_is_given_it():
    moved = []
    for scale in (1.0, 1.0 + 1e-3):
        model = make_model()
        rule = make_rule("gated-lstm", spread=0.3)
        optimizer = LearnedOptimizer(model.parameters(), rule=rule, total_steps=100)
        with higher.innerloop_ctx(model, optimizer) as (fast, diffopt):
            loss = model_loss(fast)
            # The same gradients, another loss.
            diffopt.step(loss + (scale - 1) * 1e4)
            moved.append([p.detach() for p in fast.parameters()])
    assert not same(*moved)


def in_both_drivers(rule, *lrs, steps, **options):
    """Parameters after training with a group for each layer, by the optimizer and by `higher`."""
    results = []
    for differentiable in (False, True):
        model = make_model(torch.float64)
        layers = (model[0], model[2])
        groups = [
            {"params": layer.parameters(), "lr": lr} for layer, lr in zip(layers, lrs, strict=True)
        ]
        optimizer = LearnedOptimizer(groups, rule=rule, total_steps=100, **options)
        if differentiable:
            with higher.innerloop_ctx(model, optimizer) as (fast, diffopt):
                for _ in range(steps):
                    diffopt.step(model_loss(fast, torch.float64))
                results.append([p.detach() for p in fast.parameters()])
        else:
            train(model, optimizer, steps)
            results.append([p.detach() for p in model.parameters()])
    return results


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"maximize": True}])
def test_options_of_the_groups_are_honoured(rule, options):
    results = in_both_drivers(rule.double(), 0.2, 0.1, steps=3, **options)
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_the_direction_of_a_group_is_honoured():
    finals = []
    for differentiable in (False, True):
        model = make_model(torch.float64)
        groups = [
            {"params": model[0].parameters(), "direction": "adam"},
            {"params": model[2].parameters()},
        ]
        optimizer = LearnedOptimizer(groups, rule=make_rule("orthogonal-momentum").double())
        if differentiable:
            with higher.innerloop_ctx(model, optimizer) as (fast, diffopt):
                for _ in range(3):
                    diffopt.step(model_loss(fast, torch.float64))
                finals.append([p.detach() for p in fast.parameters()])
        else:
            train(model, optimizer, 3)
            finals.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(*finals, rtol=1e-10, atol=1e-10)


def test_the_average_is_not_trained_on():
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters())
    train(model, optimizer, 3)
    optimizer.eval()
    with (
        pytest.raises(RuntimeError, match="the optimizer is in evaluation mode"),
        higher.innerloop_ctx(model, optimizer),
    ):
        pass
    optimizer.train()
    optimizer.param_groups[0]["direction"] = "adam"
    with (
        pytest.raises(ValueError, match="was another when the state of its tensors was made"),
        higher.innerloop_ctx(model, optimizer),
    ):
        pass


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_a_loss_of_one_element_is_a_number(rule, shape):
    moved = []
    for chosen in ((), shape):
        weight = nn.Parameter(torch.tensor(2.0))
        optimizer = LearnedOptimizer([weight], rule=rule, total_steps=10)
        diffopt = higher.get_diff_optim(optimizer, [weight])
        (after,) = diffopt.step(weight.square().reshape(chosen), params=[weight])
        assert after.shape == ()
        moved.append(after.detach())
    assert torch.equal(*moved)


def test_arguments_go_by_position_as_in_higher():
    weight, lr = nn.Parameter(torch.tensor(2.0)), torch.tensor(0.1)
    optimizer = LearnedOptimizer([weight], rule="sgd")
    diffopt = higher.get_diff_optim(optimizer, [weight])
    callback = lambda gradients: [3 * gradient for gradient in gradients]  # noqa: E731
    (after,) = diffopt.step(weight.square(), [weight], {"lr": [lr]}, callback)
    assert after.item() == pytest.approx(2 - 0.1 * 3 * 4)


def test_groups_share_what_the_rule_shares_among_tensors():
    rule = make_rule("step-size-lstm", spread=0.3).double()
    results = in_both_drivers(rule, 0.1, 0.1, steps=4)
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_an_lr_that_is_being_learned_gets_its_gradient(rule):
    lr = torch.tensor(0.1, requires_grad=True)
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, total_steps=100)
    with higher.innerloop_ctx(model, optimizer, override={"lr": [lr]}) as (fast, diffopt):
        diffopt.step(model_loss(fast))
        (gradient,) = torch.autograd.grad(model_loss(fast), lr)
    assert gradient != 0


def test_frozen_and_unused_parameters_stay(rule):
    model = make_model()
    model[0].weight.requires_grad_(False)
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, total_steps=100)
    with higher.innerloop_ctx(model, optimizer) as (fast, diffopt):
        diffopt.step(model_loss(fast))
        assert same(fast[0].weight.detach(), model[0].weight.detach())
        assert not same(fast[2].weight.detach(), model[2].weight.detach())


def test_without_tracking_no_graph_is_kept_from_step_to_step(rule):
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, total_steps=100)
    context = higher.innerloop_ctx(model, optimizer, track_higher_grads=False)
    with context as (fast, diffopt):
        for _ in range(2):
            diffopt.step(model_loss(fast))
        states = [value for k in range(4) for value in diffopt.state[0][k].values()]
    assert not any(value.requires_grad for value in states)


def test_refuses_what_would_be_stepped_wrongly():
    model = torch.nn.Linear(3, 2, dtype=torch.complex64)
    optimizer = LearnedOptimizer(model.parameters())
    with (
        pytest.raises(ValueError, match="does not support complex parameters"),
        higher.innerloop_ctx(model, optimizer),
    ):
        pass
    with torch.device("meta"):
        model, x = torch.nn.Linear(3, 2), torch.zeros(4, 3)
    optimizer = LearnedOptimizer(model.parameters())
    with (
        pytest.raises(ValueError, match="the rule is on cpu and parameters on meta"),
        higher.innerloop_ctx(model, optimizer) as (fast, diffopt),
    ):
        diffopt.step(fast(x).sum())


def test_without_higher_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "higher", None)
    monkeypatch.delitem(sys.modules, "learned_opt.differentiable")
    message = r"needs higher, which is not installed: .*'learned-opt\[higher\]'"
    with pytest.raises(ImportError, match=message):
        importlib.import_module("learned_opt.differentiable")
