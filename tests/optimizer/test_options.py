"""Options of parameter groups and return values of closures: followed, or refused by name."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule


def parameter(*shape):
    tensor = nn.Parameter(torch.zeros(shape))
    tensor.grad = torch.ones(shape)
    return tensor


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr must be at least 0, got -1"),
        ({"lr": math.nan}, "lr must be at least 0, got nan"),
        ({"lr": torch.tensor(-1.0)}, "lr must be at least 0"),
        ({"lr": torch.tensor([1.0, 2.0])}, "one element"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"total_steps": 0}, "total_steps must be a whole number of at least 1, got 0"),
        ({"rule": create_rule("sgd")}, "has its own rule, but all groups share one"),
        ({"rule": "nonsense"}, "a parameter group has its own rule"),
        ({"chunk_size": 3}, "a parameter group has its own chunk_size"),
        ({"betas": (0.9, 0.95), "eps": 1e-8}, "has betas, eps, which rule Adam would not read"),
    ],
)
def test_a_group_that_would_not_be_followed_is_refused(options, message):
    group = {"params": [parameter(2)], **options}
    with pytest.raises(ValueError, match=message):
        LearnedOptimizer([group], rule=create_rule("adam"))
    optimizer = LearnedOptimizer([parameter(2)], rule=create_rule("adam"))
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("lr", [torch.tensor(-1.0), torch.tensor(math.nan), -1.0, math.nan])
def test_rates_below_zero_are_refused(lr):
    with pytest.raises(ValueError, match="lr must be at least 0"):
        LearnedOptimizer([parameter(2)], lr=lr, rule=create_rule("sgd"))


def test_groups_may_have_a_plan_each():
    rule = create_rule("step-size-lstm")
    groups = [{"params": [parameter(2)], "total_steps": steps} for steps in (10, 20)]
    optimizer = LearnedOptimizer(groups, rule=rule)
    optimizer.step()
    with pytest.raises(ValueError, match="needs total_steps"):
        optimizer.add_param_group({"params": [parameter(2)]})


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("steps", [0, 1])
def test_the_state_of_another_optimizer_is_refused(make, steps):
    """Before its first step it has options alone, and its learning rate would be taken."""
    theirs = make([parameter(2)])
    for _ in range(steps):
        theirs.step()
    own = LearnedOptimizer([parameter(2)], rule=create_rule("sgd"), lr=0.5)
    with pytest.raises(ValueError, match="made by another optimizer: its groups have"):
        own.load_state_dict(theirs.state_dict())
    assert own.param_groups[0]["lr"] == 0.5


def test_groups_of_another_optimizer_with_the_same_rule_are_taken():
    rule = create_rule("sgd")
    one = LearnedOptimizer([parameter(2)], lr=0.5, rule=rule)
    other = LearnedOptimizer(one.param_groups, rule=rule)
    assert other.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("returned", [{"loss": 1.0}, (torch.tensor(1.0), 2), torch.ones(3), "x"])
def test_a_rule_that_reads_no_loss_does_not_mind_what_a_closure_returns(returned):
    tensor = parameter(3)
    optimizer = LearnedOptimizer([tensor], lr=1.0, rule=create_rule("sgd"))
    assert optimizer.step(lambda: returned) is returned
    assert torch.equal(tensor.detach(), -torch.ones(3))
    with pytest.raises(ValueError, match="closure must return one real number, got"):
        LearnedOptimizer([tensor], rule=create_rule("gated-lstm")).step(lambda: returned)


def test_a_loss_of_one_element_is_a_number():
    moved = []
    torch.manual_seed(0)
    rule = create_rule("gated-lstm", init_range=1.0)
    for loss in (2.0, torch.tensor(2.0), torch.tensor([[2.0]]), torch.tensor([2.0], dtype=float)):
        tensors = [parameter(3), parameter()]
        LearnedOptimizer(tensors, rule=rule).step(lambda loss=loss: loss)
        moved.append(torch.cat([tensor.detach().reshape(-1) for tensor in tensors]))
    assert moved[0].abs().min() > 0
    for other in moved[1:]:
        torch.testing.assert_close(other, moved[0])


WRONG = [
    ({"rule": None}, "rule must be an UpdateRule, a name or a path, got None"),
    ({"rule": 3}, "rule must be an UpdateRule, a name or a path, got 3"),
    ({"total_steps": "10"}, "total_steps must be a whole number of at least 1, got '10'"),
    ({"total_steps": 10.5}, "total_steps must be a whole number of at least 1, got 10.5"),
    ({"total_steps": math.inf}, "total_steps must be a whole number of at least 1, got inf"),
    ({"maximize": "yes"}, "maximize must be True or False, got 'yes'"),
    ({"maximize": None}, "maximize must be True or False, got None"),
    ({"lr": "0.1"}, "lr must be a number, got '0.1'"),
    ({"lr": -0.1}, "lr must be at least 0, got -0.1"),
    ({"weight_decay": "0.1"}, "weight_decay must be a number, got '0.1'"),
    (
        {"weight_decay": torch.tensor([0.1, 0.2])},
        "a tensor weight_decay must have one element, got shape (2,)",
    ),
    ({"chunk_size": 10.5}, "chunk_size must be a whole number of at least 1, got 10.5"),
    ({"foreach": True}, "foreach=True is not supported, only None or False"),
    ({"fused": "yes"}, "fused must be True, False or None, got 'yes'"),
    ({"capturable": True}, "capturable=True is not supported, only None or False"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[str(options) for options, _ in WRONG])
def test_a_wrong_argument_is_named_in_one_line(options, message):
    with pytest.raises(ValueError) as error:
        LearnedOptimizer([parameter(2)], **options)
    assert str(error.value) == message


@pytest.mark.parametrize("fused", [None, False])
def test_a_weight_decay_of_one_element_is_a_number(fused):
    moved = []
    for decay in (0.5, torch.tensor(0.5), torch.tensor([0.5])):
        tensor = nn.Parameter(torch.tensor(2.0))
        optimizer = LearnedOptimizer([tensor], lr=0.1, rule="sgd", weight_decay=decay, fused=fused)
        tensor.grad = torch.tensor(1.0)
        optimizer.step()
        moved.append(tensor.item())
    assert moved == pytest.approx([2 - 0.1 - 0.1 * 0.5 * 2] * 3)


def test_a_folder_is_not_a_rule(tmp_path):
    message = f"{tmp_path} is a folder: give the path of the weights file in it"
    with pytest.raises(ValueError) as error:
        LearnedOptimizer([parameter(2)], rule=tmp_path)
    assert str(error.value) == message


def test_options_of_torchs_implementations_are_taken_where_they_ask_for_nothing():
    for value in (None, False):
        LearnedOptimizer([parameter(2)], foreach=value, fused=value, capturable=value).step()
    group = {"params": [parameter(2)], "foreach": True}
    with pytest.raises(ValueError, match="foreach=True is not supported"):
        LearnedOptimizer([group])


def test_options_are_kept_as_pythons_numbers():
    options = {
        "lr": np.float64(0.5),
        "weight_decay": np.float32(0.25),
        "maximize": np.bool_(True),
        "total_steps": np.int64(10),
    }
    for groups in ([parameter(2)], [{"params": [parameter(2)], **options}]):
        group = LearnedOptimizer(groups, **options).param_groups[0]
        kept = [group[name] for name in options]
        assert kept == [0.5, 0.25, True, 10]
        assert [type(value) for value in kept] == [float, float, bool, int]
    whole = LearnedOptimizer([parameter(2)], total_steps=1e4).param_groups[0]["total_steps"]
    assert (whole, type(whole)) == (10000, int)


def test_a_missing_plan_is_asked_for_with_the_call():
    with pytest.raises(ValueError) as error:
        LearnedOptimizer([parameter(2)], rule="step-size-lstm")
    assert str(error.value) == (
        "rule StepSizeLSTM needs total_steps, the planned number of optimizer steps: "
        "LearnedOptimizer(model.parameters(), rule=..., total_steps=epochs * len(loader))"
    )
