"""CONFORMANCE.md, lines 1 to 8: how optimizers are built."""

import itertools

import pytest
import torch
from conftest import make_model, make_rule, same, step_with, train
from torch import nn

import learned_opt.weights
from learned_opt import LearnedOptimizer, from_pretrained, list_pretrained, save_rule


def parameter(size=2):
    return nn.Parameter(torch.ones(size))


@pytest.mark.parametrize(
    ("params", "error"),
    [
        (lambda: parameter(), TypeError),
        (lambda: [], ValueError),
        (lambda: [{"params": {parameter()}}], TypeError),
        (lambda: [1.0], TypeError),
    ],
    ids=["tensor", "empty", "set", "number"],
)
def test_01_refuses_what_is_not_a_list_of_parameters(rule, params, error):
    with pytest.raises(error):
        LearnedOptimizer(params(), rule=rule, total_steps=100)


def test_01_takes_a_generator(rule):
    optimizer = LearnedOptimizer((parameter() for _ in range(3)), rule=rule, total_steps=100)
    assert len(optimizer.param_groups[0]["params"]) == 3


def test_02_warns_of_a_parameter_twice_in_a_group(rule):
    p = parameter()
    with pytest.warns(UserWarning, match="duplicate"):
        LearnedOptimizer([p, p], rule=rule, total_steps=100)


def test_02_refuses_a_parameter_in_two_groups(rule):
    p = parameter()
    with pytest.raises(ValueError, match="more than one parameter group"):
        LearnedOptimizer([{"params": [p]}, {"params": [p]}], rule=rule, total_steps=100)


def test_02_refuses_a_non_leaf(rule):
    with pytest.raises(ValueError, match="non-leaf"):
        LearnedOptimizer([parameter() * 2], rule=rule, total_steps=100)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1.0},
        {"lr": float("nan")},
        {"lr": torch.tensor([0.1, 0.2])},
        {"weight_decay": -0.1},
        {"total_steps": 0},
        {"chunk_size": 0},
        {"differentiable": True},
    ],
    ids=str,
)
def test_03_checks_arguments_before_touching_the_parameters(rule, wrong):
    params = (pytest.fail("the parameters were read") for _ in range(1))
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LearnedOptimizer(params, rule=rule, **{"total_steps": 100, **wrong})


@pytest.mark.parametrize("shape", [(), (3,)])
def test_03_takes_a_tensor_lr_of_one_element(rule, shape):
    p = nn.Parameter(torch.ones(shape))
    optimizer = LearnedOptimizer([p], lr=torch.tensor([0.5]), rule=rule, total_steps=100)
    step_with(optimizer, torch.ones(shape))
    assert not same(p, torch.ones(shape))


def test_04_names_survive_save_and_load(rule):
    model = make_model()
    optimizer = LearnedOptimizer(model.named_parameters(), rule=rule, total_steps=100)
    train(model, optimizer, 1)
    other = LearnedOptimizer(make_model().named_parameters(), rule=rule, total_steps=100)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["param_names"] == [name for name, _ in model.named_parameters()]
    assert same(other.state_dict()["state"], optimizer.state_dict()["state"])


def test_04_refuses_named_and_unnamed_together(rule):
    with pytest.raises(ValueError, match="names"):
        LearnedOptimizer(
            itertools.chain(make_model().named_parameters(), [parameter()]),
            rule=rule,
            total_steps=100,
        )


def test_05_a_group_added_in_mid_run_gets_the_defaults_and_leaves_old_state(rule):
    model = make_model()
    optimizer = LearnedOptimizer(
        model.parameters(), lr=0.25, weight_decay=0.5, rule=rule, total_steps=100
    )
    train(model, optimizer, 2)
    before = optimizer.state_dict()["state"]
    extra = parameter()
    optimizer.add_param_group({"params": [extra], "weight_decay": 0.0})
    added = optimizer.param_groups[1]
    assert optimizer.defaults.keys() <= added.keys()
    assert (added["lr"], added["weight_decay"]) == (0.25, 0.0)
    assert same(optimizer.state_dict()["state"], before)
    gradients = [p.grad for p in model.parameters()]
    step_with(optimizer, *gradients, torch.ones(2))
    assert optimizer.state[extra]["step"] == 1
    assert optimizer.state[model[0].weight]["step"] == 3


@pytest.mark.parametrize("name", list_pretrained())
def test_06_bundled_rules_need_nothing_but_what_they_read_and_are_shared(name):
    plan = from_pretrained(name).required_context()
    assert plan <= {"total_steps"}  # the only one that a usual loop can give
    settings = {field: 100 for field in plan}
    first, second = (LearnedOptimizer([parameter()], rule=name, **settings) for _ in range(2))
    assert first.rule is second.rule


def test_06_parameters_alone_are_enough():
    p = parameter()
    optimizer = LearnedOptimizer([p])
    step_with(optimizer, torch.ones(2))
    assert not same(p, torch.ones(2))


def test_06_a_rule_is_held_by_reference(rule):
    assert all(
        LearnedOptimizer([parameter()], rule=rule, total_steps=100).rule is rule for _ in range(2)
    )


def test_07_defaults_and_groups_hold_plain_values_and_tensors_only(rule):
    optimizer = LearnedOptimizer([parameter()], lr=torch.tensor(0.1), rule=rule, total_steps=3)
    group = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    for value in [*optimizer.defaults.values(), *group.values()]:
        assert isinstance(value, int | float | str | torch.Tensor | None)


def test_08_building_under_the_meta_device_keeps_the_network_off_it(rule, tmp_path):
    path = tmp_path / "rule.safetensors"
    save_rule(rule, path)
    p = parameter()
    with torch.device("meta"):
        optimizer = LearnedOptimizer([p], rule=path, total_steps=100)
        step_with(optimizer, torch.ones(2, device="cpu"))
    assert optimizer.rule.device.type == "cpu"
    assert all(tensor.device.type == "cpu" for tensor in optimizer.state[p].values())
    assert same(dict(optimizer.rule.state_dict()), dict(rule.state_dict()))


def test_08_building_consumes_no_random_numbers(rule, tmp_path, monkeypatch):
    path = tmp_path / "mine.safetensors"
    save_rule(rule, path)
    monkeypatch.setattr(learned_opt.weights, "_bundled", lambda: {"mine": path})
    before = torch.get_rng_state()
    for given in ("mine", path):
        LearnedOptimizer([parameter()], rule=given, total_steps=100)
    assert same(torch.get_rng_state(), before)


def test_08_rules_work_whatever_the_default_dtype(rule_name):
    torch.set_default_dtype(torch.float64)
    try:
        rule = make_rule(rule_name)
        fresh = learned_opt.create_rule(rule_name)
        optimizer = LearnedOptimizer([parameter()], rule=fresh, total_steps=100)
        step_with(optimizer, torch.ones(2))
    finally:
        torch.set_default_dtype(torch.float32)
    assert {weight.dtype for weight in rule.parameters()} <= {torch.float32}
    assert {v.dtype for v in optimizer.state_dict()["state"][0].values()} == {torch.float32}
