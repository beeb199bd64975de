import copy
from collections import UserDict

import pytest
import torch
from conftest import initialization_of, make_batch, make_model, same, weights
from torch import nn
from torch.func import functional_call

from learned_opt import LearnedOptimizer, create_rule, save_rule
from learned_opt.adaptation import adapt, load_initialization, save_initialization
from learned_opt.rules.per_tensor_rates import MetaSGD

mse = nn.functional.mse_loss


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
    # Another rule uses its own learning rate, not the initialisation's.
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
        ({"steps": -1}, ValueError, "steps must be a whole number of at least 0, got -1"),
        ({"only": "2."}, ValueError, "only must be a list of names"),
        ({"only": ["head"]}, ValueError, "no parameter to adapt begins with 'head'"),
        ({"proximal": -1.0}, ValueError, "proximal must be finite and at least 0, got -1.0"),
        ({"create_graph": True}, ValueError, "needs functional=True"),
        ({"rule": "sdg"}, ValueError, "unknown rule 'sdg'; did you mean 'sgd'"),
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


def pulled(model, support, steps, lr, strength):
    """Gradient descent by hand on the loss plus strength / 2 |theta - start|^2."""
    model, start = copy.deepcopy(model), weights(model)
    for _ in range(steps):
        own = list(model.parameters())
        gradients = torch.autograd.grad(mse(model(support[0]), support[1]), own)
        with torch.no_grad():
            for parameter, gradient, anchor in zip(own, gradients, start, strict=True):
                parameter -= lr * (gradient + strength * (parameter - anchor))
    return model


def test_adapt_is_held_at_the_start_as_the_file_says(tmp_path):
    model, support = make_model(torch.float64), make_batch(torch.float64)
    sgd = create_rule("sgd").double()
    held = adapt(model, support, rule=sgd, steps=4, lr=0.1, loss=mse, proximal=2.0)
    expected = weights(pulled(model, support, 4, 0.1, 2.0))
    torch.testing.assert_close(weights(held), expected, rtol=1e-12, atol=1e-12)
    initialization = initialization_of(model, rule=sgd, lr=0.1, steps=4, proximal=2.0)
    save_initialization(initialization, tmp_path / "a.safetensors")
    learned = load_initialization(tmp_path / "a.safetensors")
    assert learned.proximal == 2.0
    other = make_model(torch.float64, seed=3)
    assert same(weights(adapt(other, support, initialization=learned, loss=mse)), weights(held))
    free = adapt(other, support, initialization=learned, loss=mse, proximal=0.0)
    assert same(weights(free), weights(adapt(model, support, rule=sgd, steps=4, lr=0.1, loss=mse)))


def test_the_pull_is_differentiated_by_the_start_too():
    model, support = make_model(torch.float64), make_batch(torch.float64)
    sgd = create_rule("sgd").double()
    start = dict(model.named_parameters())

    def end(values):
        with torch.no_grad():
            for key, value in start.items():
                value.copy_(values[key])
        found = adapt(
            model, support, rule=sgd, steps=3, lr=0.1, loss=mse, proximal=2.0,
            functional=True, create_graph=True,
        )  # fmt: skip
        return sum((k + 1) * value.sum() for k, value in enumerate(found.values()))

    at = {key: value.detach().clone() for key, value in start.items()}
    gradient = torch.autograd.grad(end(at), list(start.values()))[0]
    nudged = {key: value.clone() for key, value in at.items()}
    difference = 0.0
    for sign in (1, -1):
        nudged["0.weight"][0, 0] = at["0.weight"][0, 0] + sign * 1e-5
        difference += sign * float(end(nudged).detach()) / 2e-5
    assert float(gradient[0, 0]) == pytest.approx(difference, rel=1e-7)


def test_what_could_not_be_adapted_with_is_refused():
    for strength in (-1.0, float("inf"), float("nan"), "2"):
        with pytest.raises(ValueError, match="proximal must be finite and at least 0"):
            initialization_of(make_model(), proximal=strength)
    with pytest.raises(ValueError, match="'weight' is complex"):
        adapt(nn.Linear(3, 2, dtype=torch.complex64), make_batch(), loss=mse)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, left, right):
        return self.layer(left) * self.layer(right)


@pytest.mark.parametrize("functional", [False, True])
def test_a_mapping_gives_keyword_arguments(functional):
    torch.manual_seed(0)
    model, inputs, targets = TwoInputs(), torch.randn(2, 6, 3), torch.randn(6, 1)
    settings = {"lr": 0.1, "steps": 2, "loss": nn.functional.mse_loss, "functional": True}
    expected = adapt(model, ((inputs[0], inputs[1]), targets), **settings)
    mapping = UserDict(right=inputs[1], left=inputs[0])  # as BatchEncoding of transformers
    for support in ((mapping, targets), [(mapping, targets)]):
        found = adapt(model, support, **{**settings, "functional": functional})
        found = found if functional else dict(found.named_parameters())
        assert all(torch.equal(found[key], value) for key, value in expected.items())
