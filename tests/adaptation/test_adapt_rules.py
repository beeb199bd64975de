"""The rule that `adapt` takes: by name, in which precision, and with which gradients."""

import copy

import pytest
import torch
from conftest import Heads, make_batch, make_model, same, weights
from plain_loop import mse, plain_loop
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.adaptation import adapt
from learned_opt.rules.per_tensor_rates import LayerStepRates, MetaSGD


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("name", ["momentum", "adam", "digits-lstm"])
def test_a_parameter_without_a_gradient_stays_as_in_the_optimizer(name, functional):
    model, (x, y) = Heads(), make_batch()
    batches = [((x, True), y), ((x, False), y)]
    found = adapt(model, batches, rule=name, steps=4, loss=mse, functional=functional)
    found = found if functional else dict(found.named_parameters())
    expected = copy.deepcopy(model)
    rule = name if name == "digits-lstm" else create_rule(name)
    optimizer = LearnedOptimizer(expected.parameters(), rule=rule, total_steps=4)
    for inputs, targets in batches * 2:
        optimizer.zero_grad()
        mse(expected(*inputs), targets).backward()
        optimizer.step()
    for key, value in expected.named_parameters():
        torch.testing.assert_close(found[key], value)


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("kind", [MetaSGD, LayerStepRates])
def test_rates_of_all_tensors_take_a_batch_that_is_for_some(kind, functional):
    model, (x, y) = Heads(), make_batch()
    rule = kind(shapes=[list(p.shape) for p in model.parameters()])
    support = ((x, True), y)
    found = adapt(model, support, rule=rule, steps=2, loss=mse, functional=functional)
    found = found if functional else dict(found.named_parameters())
    assert torch.equal(found["right.weight"], model.right.weight)
    assert not torch.equal(found["left.weight"], model.left.weight)


def test_files_that_are_called_as_a_rule_do_not_matter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sgd").write_text("not weights")
    adapt(make_model(), make_batch(), steps=1, loss=mse)
    with pytest.raises(ValueError, match="there is no weights file mine.safetensors"):
        adapt(make_model(), make_batch(), rule="mine.safetensors", loss=mse)


def test_in_inference_mode_and_whatever_the_device_context():
    model, support = make_model(), make_batch()
    expected = weights(adapt(model, support, steps=2, loss=mse))
    with torch.inference_mode():
        inside = [part.clone() for part in support]  # cannot be differentiated themselves
        assert same(weights(adapt(model, inside, steps=2, loss=mse)), expected)
    with torch.device("meta"):
        assert same(weights(adapt(model, support, steps=2, loss=mse)), expected)


def test_no_random_number_is_drawn():
    for rule in ("sgd", "step-size-lstm", "digits-lstm"):
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        adapt(make_model_quietly(), make_batch(), rule=rule, steps=1, loss=mse)
        assert torch.equal(torch.rand(1), expected)


def make_model_quietly():
    with torch.random.fork_rng():
        return make_model()


def test_a_rule_by_name_computes_in_the_modules_precision():
    model, support = make_model(torch.float64), make_batch(torch.float64)
    found = weights(adapt(model, support, rule="sgd", lr=0.1, steps=3, loss=mse))
    expected = weights(plain_loop(model, support, 3, 0.1))
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("functional", [False, True])
def test_a_rules_own_network_is_not_run_in_autocast(functional):
    x, _ = make_batch()

    class Bowl(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.linspace(-1, 1, 5))

        def forward(self, x):
            return (self.w**2).sum()

    def run():
        settings = {"rule": "digits-lstm", "steps": 5, "functional": functional}
        found = adapt(Bowl(), (x, x), loss=lambda out, _: out, **settings)
        return found["w"] if functional else found.w.detach()

    expected = run()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(), expected)
