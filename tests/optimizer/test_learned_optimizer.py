"""`LearnedOptimizer` beyond the contract of torch.optim, which tests/conformance covers."""

import warnings

import pytest
import torch
from conftest import make_model, make_optimizer, make_rule, same, step_with, train
from torch import nn

from learned_opt import LearnedOptimizer, UpdateRule, from_pretrained
from learned_opt.updates import batch_by_size, piece_indices


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (2, 3, 4), (0, 3), (5, 1)])
@pytest.mark.parametrize("limit", [1, 2, 4, 7, 100])
def test_slices_cover_a_tensor_once_within_the_limit(shape, limit):
    seen = torch.zeros(shape)
    for index in piece_indices(shape, limit):
        assert seen[index].numel() <= limit
        seen[index] += 1
    assert (seen == 1).all()


def test_packs_keep_the_order_and_the_limit():
    batches = list(batch_by_size("abcdef", [3, 3, 1, 9, 2, 2], 6))
    assert batches == [["a", "b"], ["c"], ["d"], ["e", "f"]]


def test_every_rule_trains_a_model_with_its_own_default_lr(rule):
    model = make_model()
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, total_steps=100)
    assert optimizer.param_groups[0]["lr"] == rule.default_lr
    losses = train(model, optimizer, 30)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert losses[-1] != losses[0]


def test_update_hooks_see_what_the_rule_is_about_to_read(rule):
    model = make_model()
    optimizer = LearnedOptimizer(model.named_parameters(), rule=rule, total_steps=5)
    before = [p.detach().clone() for p in model.parameters()]
    calls = []

    def look(given, updates, context):
        assert given is optimizer
        assert same([u.parameter.detach() for u in updates], before)
        assert all(u.state["step"] == 0 for u in updates)
        assert all(u.gradient is p.grad for u, p in zip(updates, model.parameters(), strict=True))
        calls.append(([u.name for u in updates], context))

    handle = optimizer.register_update_hook(look)
    losses = train(model, optimizer, 1)
    handle.remove()
    train(model, optimizer, 1)
    ((names, context),) = calls
    assert names == [name for name, _ in model.named_parameters()]
    assert context.loss.item() == pytest.approx(losses[0])
    assert not context.loss.requires_grad
    assert context.total_steps == 5


def test_parameters_without_names_are_named_by_position(rule):
    optimizer, _ = make_optimizer(rule, torch.ones(1), torch.ones(1))
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    names = []
    optimizer.register_update_hook(lambda _, updates, __: names.extend(u.name for u in updates))
    step_with(optimizer, *[torch.ones(1)] * 3)
    assert names == ["0.0", "0.1", "1.0"]


def test_state_can_be_made_before_the_first_step(rule):
    optimizer, (parameter, frozen) = make_optimizer(rule, torch.ones(3), torch.ones(2))
    frozen.requires_grad_(False)
    optimizer.init_state()
    assert same(dict(optimizer.state[parameter]), rule.init_state(parameter))
    assert frozen not in optimizer.state
    step_with(optimizer, torch.ones(3), None)
    optimizer.init_state()
    assert optimizer.state[parameter]["step"] == 1


class _NeedsPlan(UpdateRule):
    """Steps in proportion to the steps left; not coordinate-wise."""

    needs = frozenset({"total_steps"})

    def init_tensor_state(self, parameter):
        return {}

    def update(self, gradients, parameters, states, context):
        left = [1 - (state["step"] - 1) / context.total_steps for state in states]
        return [-part * g for part, g in zip(left, gradients, strict=True)], states


def test_a_rule_of_the_users_own_that_reads_the_plan():
    with pytest.raises(ValueError, match="total_steps"):
        LearnedOptimizer([nn.Parameter(torch.ones(1))], rule=_NeedsPlan())
    optimizer, (parameter,) = make_optimizer(_NeedsPlan(), torch.ones(1), total_steps=4)
    seen = []
    for _ in range(4):
        step_with(optimizer, torch.ones(1))
        seen.append(parameter.item())
    assert seen == [0.0, -0.75, -1.25, -1.5]


def test_a_rule_whose_weights_are_being_trained_is_not_differentiated(rule):
    assert all(weight.requires_grad for weight in rule.parameters())
    optimizer, (parameter,) = make_optimizer(rule, torch.ones(3))
    step_with(optimizer, torch.ones(3))
    assert parameter.is_leaf and parameter.grad_fn is None
    assert not any(value.requires_grad for value in optimizer.state[parameter].values())


def test_a_loss_of_any_kind_serves_the_rule():
    moved = []
    for loss in (0.5, torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64)):
        optimizer, (parameter,) = make_optimizer(make_rule("gated-lstm", spread=0.3), torch.ones(3))
        step_with(optimizer, torch.ones(3), loss=loss)
        moved.append(parameter.detach())
    assert same(moved[0], moved[1])
    assert same(moved[0], moved[2])


def test_the_loss_reaches_the_rule():
    moved = []
    for loss in (0.5, 5.0):
        optimizer, (parameter,) = make_optimizer(make_rule("gated-lstm", spread=0.3), torch.ones(3))
        step_with(optimizer, torch.ones(3), loss=loss)
        moved.append(parameter.detach())
    assert not same(*moved)


def test_adams_learning_rate_is_not_taken_in_silence():
    parameter = torch.nn.Parameter(torch.ones(2))
    with pytest.warns(UserWarning, match=r"lr=0.001 makes every step 6.8 times smaller.*0.0068"):
        LearnedOptimizer([parameter], lr=1e-3)
    for lr in (0.002, 0.0, 0.0068):
        LearnedOptimizer([parameter], lr=lr)
    with pytest.warns(UserWarning, match=r"lr=0.001 makes every step 6.8 times smaller"):
        LearnedOptimizer([{"params": [parameter], "lr": 1e-3}])
    other = torch.nn.Parameter(torch.ones(2))
    LearnedOptimizer([{"params": [parameter], "lr": 1e-3}, {"params": [other]}])


@pytest.mark.parametrize(("peak", "warned"), [(1e-3, True), (0.0068, False)])
def test_nor_as_the_peak_of_one_cycle(peak, warned):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = LearnedOptimizer([parameter])
    torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=9, cycle_momentum=False)
    parameter.grad = torch.ones(2)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        optimizer.step()
        optimizer.step()
    assert len(seen) == warned
    if warned:
        assert str(seen[0].message).startswith("lr=0.001 makes every step 6.8 times smaller")
        assert seen[0].filename == __file__


@pytest.mark.parametrize("rule", ["digits-lstm", from_pretrained("digits-lstm")])
def test_nor_under_bundled_weights_by_name_or_not(rule):
    parameter = torch.nn.Parameter(torch.ones(2))
    with pytest.warns(UserWarning, match=r"lr=0.001 makes every step 30.0 times smaller.*0.03"):
        LearnedOptimizer([parameter], lr=1e-3, rule=rule)
    LearnedOptimizer([parameter], lr=0.01, rule=rule)


def test_a_rule_that_needs_a_learning_rate_takes_any():
    parameter = torch.nn.Parameter(torch.ones(2))
    for rule in ("sgd", make_rule("adam-lstm")):
        LearnedOptimizer([parameter], lr=1e-4, rule=rule)


@pytest.mark.parametrize("rule", ["digits-lstm", from_pretrained("digits-lstm")])
@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ([(8, 3, 3, 3), (8,)], "more than two dimensions, such as convolutions"),
        ([(1000, 100), (100,)], "100,100 parameters"),
    ],
)
def test_a_specialist_says_once_what_it_is_for(rule, shapes, found):
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    with pytest.warns(UserWarning) as caught:
        LearnedOptimizer(parameters, rule=rule)
    (message,) = [str(warning.message) for warning in caught]
    assert message.startswith(
        "digits-lstm was meta-trained for small perceptrons with cross entropy, for hundreds of "
        "steps; this model has "
    )
    assert found in message and "LearnedOptimizer(model.parameters())" in message


def test_the_optimizer_of_the_paper_is_a_specialist_too():
    kernel = torch.nn.Parameter(torch.zeros(8, 3, 3, 3))
    with pytest.warns(UserWarning, match="andrychowicz-lstm was meta-trained for sigmoid percept"):
        LearnedOptimizer([kernel], rule="andrychowicz-lstm")


def test_a_specialist_is_silent_where_it_belongs_and_others_everywhere():
    perceptron = [torch.nn.Parameter(torch.zeros(shape)) for shape in [(64, 64), (64,), (10, 64)]]
    LearnedOptimizer(perceptron, rule="digits-lstm")
    LearnedOptimizer(perceptron, rule="andrychowicz-lstm")
    kernel = [torch.nn.Parameter(torch.zeros(8, 3, 3, 3))]
    LearnedOptimizer(kernel)
    LearnedOptimizer(kernel, rule="step-size-lstm", total_steps=10)
    LearnedOptimizer(kernel, rule=make_rule("adam-lstm"))


def test_an_unknown_rule_is_met_with_the_names_that_work():
    with pytest.raises(ValueError, match=r"muon.*digits-lstm.*orthogonal-momentum"):
        LearnedOptimizer([torch.nn.Parameter(torch.ones(2))], rule="muon")


def test_a_specialist_says_nothing_of_a_model_that_has_no_shapes_yet():
    model = torch.nn.LazyLinear(3)
    LearnedOptimizer(model.parameters(), rule="digits-lstm", total_steps=5)
