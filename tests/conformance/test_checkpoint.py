"""CONFORMANCE.md, lines 36 to 45: saving, loading, copying."""

import copy
import io
import math
import pickle

import pytest
import torch
from conftest import clones, make_model, make_optimizer, make_rule, same, step_with, train
from torch import nn

from learned_opt import LearnedOptimizer, create_rule, list_rules

NEEDS_STATE = [name for name in list_rules() if name != "sgd"]


def trained(rule, steps=3, **settings):
    model = make_model()
    settings.setdefault("total_steps", 100)
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, **settings)
    train(model, optimizer, steps)
    return model, optimizer


def through_a_file(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_36_a_state_dict_has_state_and_groups_only(rule):
    _, optimizer = trained(rule)
    saved = optimizer.state_dict()
    assert saved.keys() == {"state", "param_groups"}
    assert list(saved["state"]) == [0, 1, 2, 3]
    assert all(isinstance(key, nn.Parameter) for key in optimizer.state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_37_float32_state_survives_loading_for_parameters_of_another_dtype(rule, dtype):
    optimizer, _ = make_optimizer(rule, torch.linspace(0.3, 1, 4, dtype=dtype))
    for k in range(3):
        step_with(optimizer, torch.linspace(-1, 1.1, 4, dtype=dtype) * 3**-k)
    other, _ = make_optimizer(rule, torch.ones(4, dtype=dtype))
    other.load_state_dict(optimizer.state_dict())
    assert same(other.state_dict()["state"], optimizer.state_dict()["state"])


def test_38_state_values_are_tensors_and_numbers_only(rule):
    _, optimizer = trained(rule)
    for state in optimizer.state_dict()["state"].values():
        for value in state.values():
            assert type(value) in (torch.Tensor, int, float, dict)


def test_39_loading_leaves_its_argument_alone_then_and_later(rule):
    _, optimizer = trained(rule, lr=torch.tensor(0.5))
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved)
    model, other = trained(rule, steps=1)
    other.load_state_dict(saved)
    assert same(saved, before)
    train(model, other, 2)
    other.param_groups[0]["lr"].fill_(9.0)
    assert same(saved, before)


def test_40_another_number_of_parameters_or_groups_is_refused(rule):
    _, optimizer = trained(rule)
    fewer, _ = make_optimizer(rule, torch.ones(2))
    groups = [{"params": [p]} for p in make_model().parameters()]
    for other in (fewer, LearnedOptimizer(groups, rule=rule, total_steps=100)):
        with pytest.raises(ValueError):
            other.load_state_dict(optimizer.state_dict())


def test_40_named_parameters_in_another_order_are_refused(rule):
    """Those of equal shape would get each other's state."""
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    named = list(model.named_parameters())
    saved = LearnedOptimizer(named, rule=rule, total_steps=100)
    for number, (_, parameter) in enumerate(named):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    saved.step(lambda: 1.0)
    other = LearnedOptimizer([*named[2:], *named[:2]], rule=rule, total_steps=100)
    message = "number 0 is 'a.weight' there and 'b.weight' here"
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(saved.state_dict())
    assert other.param_groups[0]["param_names"][0] == "b.weight" and not other.state
    wrapped = [(f"module.{name}", parameter) for name, parameter in named]
    LearnedOptimizer(wrapped, rule=rule, total_steps=100).load_state_dict(saved.state_dict())


@pytest.mark.parametrize("rule_name", NEEDS_STATE)
def test_40_state_for_parameters_of_another_shape_is_refused(rule):
    optimizer, _ = make_optimizer(rule, torch.ones(2))
    step_with(optimizer, torch.ones(2))
    other, (parameter,) = make_optimizer(rule, torch.ones(3))
    step_with(other, torch.ones(3))
    before = copy.deepcopy([parameter.detach(), other.state_dict()])
    with pytest.raises(ValueError, match="shape"):
        other.load_state_dict(optimizer.state_dict())
    assert same([parameter.detach(), other.state_dict()], before)


@pytest.mark.parametrize("rule_name", ["lstm", "gated-lstm", "momentum-gated-lstm"])
def test_40_state_of_another_width_is_refused(rule_name):
    key = "hidden_sizes" if rule_name == "lstm" else "hidden_size"
    narrow = make_rule(rule_name, **{key: (3, 3) if rule_name == "lstm" else 3})
    optimizer, _ = make_optimizer(narrow, torch.ones(2))
    step_with(optimizer, torch.ones(2))
    saved = optimizer.state_dict()
    other, _ = make_optimizer(make_rule(rule_name), torch.ones(2))
    with pytest.raises(ValueError, match="rule"):
        other.load_state_dict(saved)
    saved["param_groups"][0].pop("rule")  # as in a checkpoint without the rule's digest
    with pytest.raises(ValueError, match="shape"):
        other.load_state_dict(saved)


def test_40_state_that_another_rule_made_is_refused(rule_name):
    optimizer, _ = make_optimizer(make_rule(rule_name), torch.ones(2))
    others = [make_rule(name) for name in list_rules() if name != rule_name]
    if list(optimizer.rule.parameters()):
        others.append(make_rule(rule_name, seed=1, spread=0.1))
    for rule in others:
        other, _ = make_optimizer(rule, torch.ones(2))
        with pytest.raises(ValueError, match="rule"):
            other.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("trained_first", [True, False])
def test_40_the_state_of_a_rule_that_is_being_trained_loads_with_its_weights(trained_first):
    """Saved after an outer step, and resumed before or after the rule gets its weights."""
    rule = create_rule("lstm")
    optimizer, _ = make_optimizer(rule, torch.ones(3))
    step_with(optimizer, torch.ones(3))
    first = copy.deepcopy(optimizer.state_dict())
    with torch.no_grad():
        rule.head.weight.add_(0.1)
    saved, weights = copy.deepcopy((optimizer.state_dict(), rule.state_dict()))
    optimizer.load_state_dict(first)  # for the next inner training
    other = create_rule("lstm")
    if trained_first:
        other.load_state_dict(weights)
    resumed, _ = make_optimizer(other, torch.ones(3))
    if not trained_first:
        with pytest.raises(ValueError, match="made by rule lstm"):
            resumed.load_state_dict(saved)
        other.load_state_dict(weights)
    resumed.load_state_dict(saved)
    assert resumed.state_dict()["param_groups"] == saved["param_groups"]


@pytest.mark.parametrize(
    ("rule_name", "key", "spoil", "says"),
    [
        ("step-size-lstm", "step", lambda value: value * math.nan, "'step' tensor.nan."),
        ("adam", "step", lambda value: -value, "'step' tensor.-2"),
        ("adam", "step", lambda value: math.inf, "'step' inf"),
        ("adam", "step", lambda value: "two", "'step' 'two'"),
        ("adam", "step", lambda value: value + 1j, "'step' tensor.2"),
        ("adam", "step", lambda value: value.to_sparse(), "'step' tensor.indices"),
        ("adam", "m", lambda value: value.to_sparse(), "'m' of layout torch.sparse_coo"),
        ("adam", "m", lambda value: value.long(), "'m' of dtype torch.int64"),
        ("adam", "m", lambda value: value + 1j, "'m' of dtype torch.complex64"),
        ("adam", "m", lambda value: value.tolist(), "'m' of type list"),
        ("orthogonal-momentum", "training_value", lambda value: value.long(), "of dtype"),
        ("orthogonal-momentum", "training_value", lambda value: value[:1], "of shape"),
    ],
)
def test_40_spoilt_state_is_refused_before_anything_is_replaced(rule_name, key, spoil, says):
    settings = {"total_steps": None if key == "training_value" else 9}
    starts = torch.ones(3), torch.ones(2)
    optimizer, _ = make_optimizer(make_rule(rule_name), *starts, **settings)
    other, _ = make_optimizer(make_rule(rule_name), *starts, **settings)
    step_with(optimizer, torch.ones(3), torch.ones(2))
    step_with(optimizer, torch.ones(3), -torch.ones(2))
    step_with(other, -torch.ones(3), torch.ones(2))
    if key == "training_value":
        optimizer.eval()
    saved = optimizer.state_dict()
    saved["state"][1][key] = spoil(saved["state"][1][key])
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(
        ValueError, match=f"^the loaded state of parameter 1 has .*{says}"
    ) as caught:
        other.load_state_dict(saved)
    assert "\n" not in str(caught.value)
    assert same(other.state_dict(), before)
    step_with(other, torch.ones(3), torch.ones(2))


def test_41_an_old_checkpoint_without_a_newer_group_key_still_steps(rule):
    _, optimizer = trained(rule)
    saved = optimizer.state_dict()
    for key in ("total_steps", "maximize", "weight_decay", "rule"):
        del saved["param_groups"][0][key]
    model, other = trained(rule, steps=1, weight_decay=0.125)
    other.load_state_dict(saved)
    assert other.param_groups[0]["weight_decay"] == 0.125
    train(model, other, 1)


def test_42_a_step_saved_as_a_number_loads(rule):
    model, optimizer = trained(rule)
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        state["step"] = int(state["step"])
    optimizer.load_state_dict(saved)
    train(model, optimizer, 1)
    assert optimizer.state[model[0].weight]["step"] == 4


@pytest.mark.filterwarnings("ignore:the loaded state has total_steps=9")
def test_43_a_resumed_run_is_bitwise_equal_to_the_unbroken_one(rule):
    model, optimizer = trained(rule, lr=torch.tensor(0.5), total_steps=9, weight_decay=0.01)
    resumed = make_model(seed=1)
    resumed.load_state_dict(through_a_file(model.state_dict()))
    other = LearnedOptimizer(resumed.parameters(), rule=copy.deepcopy(rule), total_steps=100)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    losses = [train(m, o, 4) for m, o in ((model, optimizer), (resumed, other))]
    assert losses[0] == losses[1]
    assert same(clones(resumed.parameters()), clones(model.parameters()))
    assert same(other.state_dict()["state"], optimizer.state_dict()["state"])


def test_43_a_state_dict_that_was_loaded_is_the_one_that_was_saved(rule):
    _, optimizer = trained(rule)
    _, other = trained(rule, steps=1)
    other.load_state_dict(optimizer.state_dict())
    assert same(other.state_dict(), optimizer.state_dict())


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),
    "torch.save": lambda pair: _saved_whole(pair),
}


def _saved_whole(pair):
    buffer = io.BytesIO()
    torch.save(pair, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("how", COPIES)
def test_44_copies_keep_the_rule_and_go_on_alike(rule, how):
    model, optimizer = trained(rule, chunk_size=3)
    copied_model, copied = COPIES[how]((model, optimizer))
    assert same(dict(copied.rule.state_dict()), dict(rule.state_dict()))
    assert copied.chunk_size == 3
    for m, o in ((model, optimizer), (copied_model, copied)):
        train(m, o, 3)
    assert same(clones(copied_model.parameters()), clones(model.parameters()))
    assert same(copied.state_dict()["state"], optimizer.state_dict()["state"])


@pytest.mark.gpu
def test_45_loading_a_cpu_checkpoint_moves_the_state_to_the_gpu(rule):
    model, optimizer = trained(rule)
    on_gpu = copy.deepcopy(model).cuda()
    other = LearnedOptimizer(on_gpu.parameters(), rule=rule, total_steps=100)
    other.load_state_dict(optimizer.state_dict())
    for parameter in on_gpu.parameters():
        assert {value.device.type for value in other.state[parameter].values()} == {"cuda"}


def test_45_loading_moves_the_state_to_the_parameters_device(rule):
    _, optimizer = trained(rule)
    with torch.device("meta"):
        model = make_model()
    other = LearnedOptimizer(model.parameters(), rule=rule, total_steps=100)
    other.load_state_dict(optimizer.state_dict())
    for parameter in model.parameters():
        assert {value.device.type for value in other.state[parameter].values()} == {"meta"}
