"""CONFORMANCE.md, lines 9 to 24: what a step changes and what it leaves alone."""

import copy

import pytest
import torch
from conftest import (
    clones,
    make_model,
    make_optimizer,
    model_loss,
    same,
    step_with,
    train,
    without_step,
)
from torch import nn

from learned_opt import LearnedOptimizer, create_rule


def values(*shape):
    return torch.linspace(-1.0, 1.5, torch.Size(shape).numel()).reshape(shape)


def test_09_the_closure_runs_once_with_gradients_on_and_its_value_is_returned(rule):
    optimizer, (parameter,) = make_optimizer(rule, torch.ones(2))
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = (parameter * torch.tensor([1.0, 2.0])).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        returned = optimizer.step(closure=closure)
    assert calls == [True]
    assert float(returned.detach()) == 3.0
    assert not same(parameter, torch.ones(2))


def test_09_returns_none_without_a_closure():
    optimizer, _ = make_optimizer(create_rule("adam"), torch.ones(2))
    assert optimizer.step() is None


def test_09_a_rule_that_reads_the_loss_says_so_before_anything_moves():
    optimizer, (parameter,) = make_optimizer(create_rule("gated-lstm"), torch.ones(2))
    parameter.grad = torch.ones(2)
    with pytest.raises(ValueError, match="closure"):
        optimizer.step()
    assert same(parameter, torch.ones(2))


def test_10_a_parameter_without_gradient_is_untouched_and_has_no_state(rule):
    optimizer, (first, second) = make_optimizer(rule, torch.ones(2), torch.ones(3))
    step_with(optimizer, torch.ones(2), None)
    assert same(second, torch.ones(3))
    assert second not in optimizer.state
    assert first in optimizer.state


def test_11_fresh_state_and_zero_gradient_move_nothing(rule):
    optimizer, (parameter,) = make_optimizer(rule, values(5))
    for _ in range(3):
        step_with(optimizer, torch.zeros(5))
    assert same(parameter, values(5))
    fresh = rule.init_state(parameter)
    assert same(without_step(optimizer.state[parameter]), without_step(fresh))


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_11_holds_without_an_epsilon_too(name):
    optimizer, (parameter,) = make_optimizer(create_rule(name, eps=0.0), torch.ones(2))
    step_with(optimizer, torch.tensor([0.0, 1.0]))
    assert parameter[0] == 1
    assert parameter[1] < 1


def test_12_zero_lr_is_a_bitwise_no_op(rule):
    optimizer, (parameter,) = make_optimizer(rule, values(7), lr=0.0, weight_decay=0.1)
    for k in range(3):
        step_with(optimizer, values(7) * 10**k)
    assert same(parameter, values(7))


def test_12_doubling_the_lr_doubles_the_whole_update(rule):
    moved = []
    for lr in (0.25, 0.5):
        optimizer, (parameter,) = make_optimizer(rule.double(), values(5).double(), lr=lr)
        step_with(optimizer, values(5).double())
        moved.append(parameter.detach() - values(5).double())
    torch.testing.assert_close(moved[1], 2 * moved[0], rtol=1e-9, atol=1e-12)
    assert moved[0].abs().max() > 0


@pytest.mark.parametrize("initialised", [False, True])
def test_12_distributed_checkpoint_reads_a_fresh_optimizer_without_moving_it(rule, initialised):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = make_model()
    before = clones(model.parameters())
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, total_steps=100)
    if initialised:
        optimizer.init_state()
    saved = get_optimizer_state_dict(model, optimizer)
    assert saved["state"].keys() == dict(model.named_parameters()).keys()
    assert same(clones(model.parameters()), before)
    for parameter in model.parameters():
        kept, fresh = optimizer.state[parameter], rule.init_state(parameter)
        assert same(without_step(kept), without_step(fresh))


def test_13_a_group_at_a_vanishing_lr_stays_while_others_move(rule):
    still, moving = nn.Parameter(values(4) + 2), nn.Parameter(values(4))
    groups = [{"params": [still], "lr": 1e-28}, {"params": [moving]}]
    optimizer = LearnedOptimizer(groups, rule=rule, total_steps=100)
    step_with(optimizer, values(4), values(4))
    assert same(still, values(4) + 2)
    assert not same(moving, values(4))


def test_14_a_tensor_lr_equals_the_float(rule):
    runs = []
    for lr in (0.5, torch.tensor(0.5)):
        model = make_model()
        train(model, LearnedOptimizer(model.parameters(), lr=lr, rule=rule, total_steps=100), 5)
        runs.append(clones(model.parameters()))
    assert same(*runs)


def test_14_a_tensor_lr_changed_in_place_is_seen_and_groups_have_their_own(rule):
    lr = torch.tensor(0.5)
    first, second = (nn.Parameter(values(4)) for _ in range(2))
    optimizer = LearnedOptimizer(
        [{"params": [first]}, {"params": [second]}], lr=lr, rule=rule, total_steps=100
    )
    optimizer.param_groups[0]["lr"].fill_(0.0)
    step_with(optimizer, values(4), values(4))
    assert float(lr) == 0.5
    assert same(first, values(4))
    assert not same(second, values(4))


def test_15_weight_decay_is_decoupled_per_group_and_off_by_default(rule, rule_name):
    decayed, plain = (nn.Parameter(values(4).double()) for _ in range(2))
    groups = [{"params": [decayed], "weight_decay": 0.25}, {"params": [plain]}]
    optimizer = LearnedOptimizer(groups, lr=0.5, rule=rule.double(), total_steps=100)
    assert optimizer.param_groups[1]["weight_decay"] == 0
    step_with(optimizer, values(4).double(), values(4).double())
    # The first of three steps of warm-up, over the fourth root of 1.02, where the weight decay
    # follows a schedule.
    factor = {"orthogonal-momentum": 0.33168719174, "general": 0.33168719174}.get(rule_name, 1.0)
    torch.testing.assert_close(plain - decayed, 0.5 * 0.25 * factor * values(4).double())


def test_16_maximize_equals_minimising_the_negated_loss(rule):
    runs = []
    for maximize in (False, True):
        sign = 1 if maximize else -1
        model = make_model()
        optimizer = LearnedOptimizer(
            model.parameters(), maximize=maximize, rule=rule, total_steps=100
        )

        def closure(model=model, optimizer=optimizer, sign=sign):
            optimizer.zero_grad()
            loss = sign * model_loss(model)
            loss.backward()
            return loss

        for _ in range(5):
            optimizer.step(closure)
        runs.append([clones(model.parameters()), optimizer.state_dict()["state"]])
    assert same(*runs)


def test_17_autocast_around_the_step_changes_nothing(rule):
    runs = []
    for enabled in (False, True):
        optimizer, parameters = make_optimizer(rule, values(6), values(2, 3))
        for k in range(5):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                step_with(optimizer, values(6) * k, values(2, 3) - k)
        runs.append([clones(parameters), optimizer.state_dict()["state"]])
    assert same(*runs)


def test_18_a_step_that_gradscaler_skips_leaves_everything_alone(rule):
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, total_steps=100)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def scaled_step(factor):
        optimizer.zero_grad()
        loss = model_loss(model) * factor
        scaler.scale(loss).backward()
        scaler.step(optimizer, lambda: loss.detach())
        scaler.update()

    scaled_step(1.0)
    before = copy.deepcopy([clones(model.parameters()), optimizer.state_dict()["state"]])
    scaled_step(float("inf"))
    assert same([clones(model.parameters()), optimizer.state_dict()["state"]], before)
    scaled_step(1.0)
    assert optimizer.state[model[0].weight]["step"] == 2


def test_19_a_step_consumes_no_random_numbers_and_leaves_autograd_as_it_was(rule):
    optimizer, parameters = make_optimizer(rule, values(4), values(2, 2))
    gradients = [values(4), values(2, 2)]
    kept = clones(gradients)
    before = torch.get_rng_state()
    step_with(optimizer, *gradients)
    assert same(torch.get_rng_state(), before)
    assert torch.is_grad_enabled()
    assert all(p.grad is g for p, g in zip(parameters, gradients, strict=True))
    assert same(gradients, kept)
    assert all(p.requires_grad and p.is_leaf for p in parameters)
    assert all(weight.grad is None for weight in rule.parameters())


LAYOUTS = {
    "transposed": lambda t: t.t().contiguous().t(),
    "strided": lambda t: torch.stack([t, t], dim=-1)[..., 0],
    "expanded gradient": lambda t: t,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("chunk_size", [2, 1 << 16])
def test_20_strides_do_not_matter(rule, layout, chunk_size):
    gradient = torch.ones(3, 1).expand(3, 4) if "expanded" in layout else values(3, 4)
    plain, (expected,) = make_optimizer(rule, values(3, 4))
    parameter = nn.Parameter(LAYOUTS[layout](values(3, 4)))
    optimizer = LearnedOptimizer([parameter], rule=rule, total_steps=100, chunk_size=chunk_size)
    for _ in range(3):
        step_with(plain, gradient.contiguous())
        step_with(optimizer, gradient if "expanded" in layout else LAYOUTS[layout](gradient))
    torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-7)
    assert parameter.stride() == LAYOUTS[layout](values(3, 4)).stride()


def test_20_channels_last_does_not_matter(rule):
    plain, (expected,) = make_optimizer(rule, values(2, 3, 2, 2))
    parameter = nn.Parameter(values(2, 3, 2, 2).to(memory_format=torch.channels_last))
    optimizer = LearnedOptimizer([parameter], rule=rule, total_steps=100)
    for o in (plain, optimizer):
        step_with(o, values(2, 3, 2, 2))
    torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0)])
def test_21_scalars_and_empty_tensors_are_parameters_too(rule, shape):
    optimizer, (odd, usual) = make_optimizer(rule, values(*shape), values(3))
    alone, (expected,) = make_optimizer(rule, values(3))
    for _ in range(2):
        step_with(optimizer, values(*shape) + 1.5, values(3))
        step_with(alone, values(3))
    assert odd.shape == shape
    assert odd.numel() == 0 or not same(odd, values(*shape))
    torch.testing.assert_close(usual, expected)


def test_22_a_complex_parameter_moves_as_its_real_and_imaginary_parts(rule):
    start = torch.view_as_complex(values(3, 2))
    optimizer, (parameter,) = make_optimizer(rule, start)
    plain, (expected,) = make_optimizer(rule, values(3, 2))
    for k in range(3):
        gradient = values(3, 2) + k
        step_with(optimizer, torch.view_as_complex(gradient))
        step_with(plain, gradient)
    assert same(torch.view_as_real(parameter.detach()), expected)


def test_22_a_lazily_conjugated_gradient_works(rule):
    optimizer, (parameter,) = make_optimizer(rule, torch.ones(2, dtype=torch.complex64))
    plain, (expected,) = make_optimizer(rule, torch.ones(2, dtype=torch.complex64))
    step_with(optimizer, torch.tensor([1 + 2j, 3j]).conj())
    step_with(plain, torch.tensor([1 - 2j, -3j]))
    assert same(torch.view_as_real(parameter.detach()), torch.view_as_real(expected.detach()))


def test_23_sparse_gradients_are_refused_before_anything_moves(rule):
    optimizer, (dense, sparse) = make_optimizer(rule, values(2), values(2))
    with pytest.raises(RuntimeError, match="sparse"):
        step_with(optimizer, values(2), values(2).to_sparse())
    assert same(clones([dense, sparse]), [values(2), values(2)])


def test_24_freezing_and_unfreezing_resumes_the_state(rule):
    optimizer, (first, second) = make_optimizer(rule, values(3), values(3))
    step_with(optimizer, values(3), values(3))
    second.requires_grad_(False)
    frozen = copy.deepcopy([second.detach(), optimizer.state_dict()["state"][1]])
    step_with(optimizer, values(3), None)
    assert same([second.detach(), optimizer.state_dict()["state"][1]], frozen)
    second.requires_grad_(True)
    step_with(optimizer, values(3), values(3))
    assert optimizer.state[first]["step"] == 3
    assert optimizer.state[second]["step"] == 2
