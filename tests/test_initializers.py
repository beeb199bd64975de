import copy

import pytest
import torch
from conftest import clones, make_batch, make_model, make_rule, same
from torch import nn
from torch.func import functional_call

from learned_opt import LearnedOptimizer, create_rule, save_rule
from learned_opt.initializers import (
    Initialization,
    adapt,
    load_initialization,
    save_initialization,
)
from learned_opt.rates import MetaSGD

mse = nn.functional.mse_loss


def initialization_of(module, **fields):
    return Initialization({k: v.detach().clone() for k, v in module.named_parameters()}, **fields)


def manual_sgd(model, support, steps, lr, loss=mse):
    model = copy.deepcopy(model)
    for _ in range(steps):
        gradients = torch.autograd.grad(
            loss(model(support[0]), support[1]), list(model.parameters())
        )
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.copy_(parameter - lr * gradient)
    return model


def weights(module):
    return clones(module.parameters())


# apply_to


def test_apply_to_writes_every_value_and_keeps_what_it_is_told():
    source, target = make_model(seed=1), make_model(seed=2)
    before = weights(target)
    initialization = initialization_of(source)
    assert initialization.apply_to(target, keep=["2."]) is target
    assert same(weights(target), [*weights(source)[:2], *before[2:]])
    assert same(weights(initialization.apply_to(target)), weights(source))
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in target.parameters())


def test_apply_to_a_module_of_another_dtype():
    source, target = make_model(seed=1), make_model(torch.float64, seed=2)
    initialization_of(source).apply_to(target)
    assert same(weights(target), [value.double() for value in weights(source)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own.pop("0.bias"), "it has no parameter '0.bias'"),
        (lambda own: own.update(tail=torch.zeros(1)), "the module has no parameter 'tail'"),
        (
            lambda own: own.update({"0.bias": torch.zeros(7)}),
            r"parameter '0.bias' is \[4\] in the module, \[7\] here",
        ),
    ],
)
def test_apply_to_refuses_what_does_not_fit_and_changes_nothing(change, message):
    target = make_model(seed=2)
    before = weights(target)
    initialization = initialization_of(make_model(seed=1))
    change(initialization.parameters)
    with pytest.raises(ValueError, match=f"does not fit Sequential: {message}"):
        initialization.apply_to(target)
    assert same(weights(target), before)


def test_buffers_are_applied_too():
    source, target = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    source.running_mean.fill_(3.0)
    buffers = {"running_mean": source.running_mean}
    initialization_of(source, buffers=buffers).apply_to(target)
    assert target.running_mean.tolist() == [3.0, 3.0]
    with pytest.raises(ValueError, match="the module has no buffer 'running_mean'"):
        initialization_of(nn.Linear(2, 2), buffers=buffers).apply_to(nn.Linear(2, 2))


# files


@pytest.mark.parametrize("kind", ["none", "lstm", "rates"])
def test_a_file_holds_everything(tmp_path, kind):
    model = make_model(torch.float64)
    rule = {
        "none": None,
        "lstm": make_rule("gated-lstm", torch.float64, hidden_size=3),
        "rates": MetaSGD(shapes=[list(p.shape) for p in model.parameters()]),
    }[kind]
    written = initialization_of(
        model,
        buffers={"count": torch.tensor(3)},
        rule=rule,
        lr=0.4,
        steps=3,
        card={"task": "sine", "mse": [0.4]},
    )
    path = tmp_path / "phi.safetensors"
    save_initialization(written, path)
    state = torch.get_rng_state()
    read = load_initialization(path)
    assert torch.equal(state, torch.get_rng_state())
    assert list(read.parameters) == list(written.parameters)
    assert same(read.parameters, written.parameters) and same(read.buffers, written.buffers)
    assert (read.lr, read.steps, read.card) == (0.4, 3, written.card)
    if rule is None:
        assert read.rule is None
    else:
        assert type(read.rule) is type(rule) and read.rule.settings == rule.settings
        assert same(read.rule.state_dict(), rule.state_dict())


def test_bad_files_are_refused_by_name(tmp_path):
    path = tmp_path / "phi.safetensors"
    with pytest.raises(FileNotFoundError, match="phi.safetensors"):
        load_initialization(path)
    save_rule(create_rule("gated-lstm"), path)
    with pytest.raises(ValueError, match="not of the format learned_opt.initialization"):
        load_initialization(path)
    path.write_bytes(b"{}")
    with pytest.raises(ValueError, match="damaged"):
        load_initialization(path)


def test_a_rule_that_nobody_could_load_is_not_saved(tmp_path):
    class Mine(type(create_rule("sgd"))):
        pass

    with pytest.raises(ValueError, match="cannot save rule Mine"):
        save_initialization(initialization_of(make_model(), rule=Mine()), tmp_path / "phi")
    assert not list(tmp_path.iterdir())


# adapt


def test_adapt_with_sgd_is_the_manual_loop_bit_by_bit_and_leaves_the_module_alone():
    model, support = make_model(), make_batch()
    before = weights(model)
    adapted = adapt(model, support, rule="sgd", lr=0.1, steps=4, loss=mse)
    assert type(adapted) is type(model) and adapted is not model
    assert same(weights(adapted), weights(manual_sgd(model, support, 4, 0.1)))
    assert same(weights(model), before) and all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad and p.is_leaf for p in adapted.parameters())


def test_adapt_classifies_by_default():
    model, (inputs, _) = make_model(), make_batch()
    targets = (inputs[:, 0] > 0).long()
    adapted = adapt(model, (inputs, targets), rule="adam", lr=0.1, steps=30)
    assert (adapted(inputs).argmax(1) == targets).float().mean() > 0.9


def test_every_rule_adapts_as_the_optimizer_does(rule):
    model, support = make_model(), make_batch()
    adapted = adapt(model, support, rule=rule, lr=0.01, steps=3, loss=mse)
    copied = copy.deepcopy(model)
    optimizer = LearnedOptimizer(copied.parameters(), rule=rule, lr=0.01, total_steps=3)
    for _ in range(3):

        def closure():
            optimizer.zero_grad()
            loss = mse(copied(support[0]), support[1])
            loss.backward()
            return loss

        optimizer.step(closure)
    for left, right in zip(weights(adapted), weights(copied), strict=True):
        torch.testing.assert_close(left, right)


def test_adapt_takes_start_rule_rate_and_steps_from_the_initialisation(tmp_path):
    model, support = make_model(seed=1), make_batch()
    initialization = initialization_of(make_model(seed=2), rule=create_rule("sgd"), lr=0.2, steps=2)
    adapted = adapt(model, support, loss=mse, initialization=initialization)
    assert same(weights(adapted), weights(manual_sgd(make_model(seed=2), support, 2, 0.2)))
    # Another rule: its own rate, not that of the initialisation's.
    adapted = adapt(model, support, rule="sgd", loss=mse, initialization=initialization)
    assert same(weights(adapted), weights(manual_sgd(make_model(seed=2), support, 2, 0.01)))
    kept = adapt(model, support, steps=0, initialization=initialization, keep=["2."])
    assert same(weights(kept), [*weights(make_model(seed=2))[:2], *weights(model)[2:]])
    path = tmp_path / "rule.safetensors"
    save_rule(create_rule("momentum"), path)
    assert not same(
        weights(adapt(model, support, rule=path, steps=2, loss=mse)),
        weights(adapt(model, support, rule="sgd", steps=2, loss=mse)),
    )


def test_only_the_head():
    model, support = make_model(), make_batch()
    adapted = adapt(model, support, steps=3, loss=mse, only=["2."])
    assert same(weights(adapted)[:2], weights(model)[:2])
    assert not same(weights(adapted)[2:], weights(model)[2:])


def test_frozen_parameters_stay():
    model, support = make_model(), make_batch()
    model[0].weight.requires_grad_(False)
    adapted = adapt(model, support, steps=3, loss=mse)
    assert same(adapted[0].weight.data, model[0].weight.data)
    assert not adapted[0].weight.requires_grad and not same(adapted[0].bias, model[0].bias)


def test_functional_is_the_same_as_a_module():
    model, support = make_model(), make_batch()
    tensors = adapt(model, support, steps=3, loss=mse, functional=True)
    adapted = adapt(model, support, steps=3, loss=mse)
    assert same(functional_call(model, tensors, support[0]), adapted(support[0]))
    assert not any(value.requires_grad for value in tensors.values())


def test_functional_is_differentiable_through_all_steps():
    model, support = make_model(torch.float64), make_batch(torch.float64)
    query = make_batch(torch.float64, seed=5)
    rule = MetaSGD(shapes=[list(p.shape) for p in model.parameters()]).double()

    def outer(*values):
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.data = value.detach()
        tensors = adapt(
            model, support, rule=rule, steps=2, loss=mse, functional=True, create_graph=True
        )
        return mse(functional_call(model, tensors, query[0]), query[1])

    start = weights(model)
    loss = outer(*start)
    found = torch.autograd.grad(loss, [*model.parameters(), *rule.parameters()])
    assert all(gradient.abs().sum() > 0 for gradient in found)
    step, shift = 1e-6, torch.zeros_like(start[0])
    shift[1, 2] = step
    slope = (outer(start[0] + shift, *start[1:]) - outer(start[0] - shift, *start[1:])) / (2 * step)
    torch.testing.assert_close(found[0][1, 2], slope.detach(), rtol=1e-6, atol=1e-9)


def test_batches_of_a_list_are_taken_in_turn():
    model, first, second = make_model(), make_batch(), make_batch(seed=1)
    adapted = adapt(model, [first, second], steps=3, lr=0.1, loss=mse)
    expected = model
    for batch in (first, second, first):
        expected = manual_sgd(expected, batch, 1, 0.1)
    assert same(weights(adapted), weights(expected))


def test_running_statistics_are_adapted_in_the_copy_only():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    adapted = adapt(model, make_batch(), steps=2, loss=mse)
    assert model[1].num_batches_tracked == 0 and adapted[1].num_batches_tracked == 2
    assert not torch.equal(adapted[1].running_mean, model[1].running_mean)


def test_works_where_gradients_are_off():
    model, support = make_model(), make_batch()
    with torch.no_grad():
        adapted = adapt(model, support, steps=2, loss=mse)
    assert same(weights(adapted), weights(adapt(model, support, steps=2, loss=mse)))


def test_inputs_by_name():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, left, *, right):
            return self.layer(left + right)

    inputs, targets = make_batch()
    model = Sum()
    named = {"left": inputs, "right": torch.zeros(8, 3)}
    adapted = adapt(model, (named, targets), steps=1, loss=mse)
    plain = adapt(model.layer, (inputs, targets), steps=1, loss=mse)
    assert same(weights(adapted), weights(plain))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"steps": -1}, ValueError, "steps must be at least 0, got -1"),
        ({"only": "2."}, ValueError, "only must be a list of names"),
        ({"only": ["head"]}, ValueError, "no parameter to adapt begins with 'head'"),
        ({"create_graph": True}, ValueError, "needs functional=True"),
        ({"rule": "sdg"}, ValueError, "unknown pretrained rule 'sdg'"),
        ({"lr": 1e30, "steps": 9}, RuntimeError, "a lower lr may help"),
    ],
)
def test_refuses_what_cannot_be(settings, error, message):
    with pytest.raises(error, match=message):
        adapt(make_model(), make_batch(), loss=mse, **settings)


def test_refuses_supports_that_are_none():
    with pytest.raises(ValueError, match=r"support must be \(inputs, targets\), got 3 parts"):
        adapt(make_model(), (*make_batch(), 1), loss=mse)
    with pytest.raises(ValueError, match="support has no batches"):
        adapt(make_model(), [], loss=mse)
    with pytest.raises(ValueError, match="ReLU has no parameter to adapt"):
        adapt(nn.ReLU(), make_batch(), loss=mse)


def test_a_loaders_batch_is_one_batch():
    model, (inputs, targets) = make_model(), make_batch()
    pair = adapt(model, (inputs, targets), loss=mse, lr=0.1, steps=2)
    listed = adapt(model, [inputs, targets], loss=mse, lr=0.1, steps=2)
    assert same(weights(pair), weights(listed))
    with pytest.raises(ValueError, match=r"each batch of support must be a pair"):
        adapt(model, [(inputs, targets), "batch"], loss=mse, lr=0.1, steps=2)


def test_a_file_says_what_is_adapted(tmp_path):
    model, batch = make_model(), make_batch()
    save_initialization(initialization_of(model, only=("2.",), lr=0.1), tmp_path / "a.safetensors")
    learned = load_initialization(tmp_path / "a.safetensors")
    assert learned.only == ("2.",)
    adapted = adapt(make_model(seed=3), batch, initialization=learned, loss=mse)
    assert same(weights(adapted)[:2], weights(model)[:2])
    assert not same(weights(adapted)[2:], weights(model)[2:])
    every = adapt(make_model(seed=3), batch, initialization=learned, loss=mse, only=[""])
    assert not same(weights(every)[:2], weights(model)[:2])


def test_names_to_keep_are_not_a_text():
    with pytest.raises(ValueError, match="keep must be names"):
        initialization_of(make_model()).apply_to(make_model(seed=2), keep="2.")
