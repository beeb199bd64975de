import pytest
import torch
from torch import nn
from torch.func import vmap

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.adaptation import Initialization, adapt
from learned_opt.functional import apply_rule
from learned_opt.rules.base import Context
from learned_opt.rules.per_tensor_rates import (
    RATE_RULES,
    LayerStepRates,
    MetaSGD,
    any_rule_name,
    create_any_rule,
)

SHAPES = [[3, 2], [3], []]


def tensors(seed):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=random) for shape in SHAPES]


def train(rule, steps, lr=None):
    parameters = tensors(0)
    states = [rule.init_state(value) for value in parameters]
    lr = rule.default_lr if lr is None else lr
    for step in range(steps):
        parameters, states = apply_rule(
            rule, tensors(step + 1), parameters, states, Context(), lr=lr
        )
    return parameters


def constant(rule, value):
    with torch.no_grad():
        for weight in rule.parameters():
            weight.fill_(value)
    return rule


@pytest.mark.parametrize("name", RATE_RULES)
def test_constant_rates_are_sgd(name):
    rule = constant(create_any_rule(name, shapes=SHAPES), 0.05)
    expected = train(create_rule("sgd"), 7, lr=0.05)
    for left, right in zip(train(rule, 7), expected, strict=True):
        torch.testing.assert_close(left, right)


def test_meta_sgd_starts_in_its_range_and_multiplies_coordinate_by_coordinate():
    torch.manual_seed(0)
    rule = MetaSGD(shapes=SHAPES)
    rates = torch.cat([rate.detach().reshape(-1) for rate in rule.rates])
    assert 0.005 <= rates.min() < rates.max() <= 0.1
    moved = train(rule, 1)
    for p, g, rate, new in zip(tensors(0), tensors(1), rule.rates, moved, strict=True):
        torch.testing.assert_close(new, p - rate.detach() * g)


def test_layer_step_rates_are_those_of_the_tensor_and_the_step():
    rule = LayerStepRates(shapes=SHAPES, steps=2)
    rates = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
    with torch.no_grad():
        rule.rates.copy_(torch.tensor(rates))
    for k, value in enumerate(train(rule, 3)):
        gradients = [tensors(step + 1)[k] for step in range(3)]
        moved = tensors(0)[k]
        for rate, gradient in zip([*rates[k], rates[k][-1]], gradients, strict=True):
            moved = moved - rate * gradient
        torch.testing.assert_close(value, moved)


@pytest.mark.parametrize("name", RATE_RULES)
def test_vmap_over_runs_and_gradients_of_rates(name):
    rule = create_any_rule(name, shapes=SHAPES)
    gradients = [torch.stack([a, b]) for a, b in zip(tensors(1), tensors(2), strict=True)]
    states = [rule.init_state(value) for value in tensors(0)]

    parameters = tensors(0)

    def step(gradients):
        return rule(gradients, parameters, states)[0]

    together = vmap(step)(gradients)
    for k, delta in enumerate(together):
        torch.testing.assert_close(delta[1], step([g[1] for g in gradients])[k])
    sum(delta.sum() for delta in together).backward()
    assert all(weight.grad.abs().sum() > 0 for weight in rule.parameters())


@pytest.mark.parametrize("name", RATE_RULES)
def test_optimizer_and_functional_step_agree(name):
    rule = create_any_rule(name, shapes=SHAPES)
    leaves = [torch.nn.Parameter(value) for value in tensors(0)]
    optimizer = LearnedOptimizer(leaves, rule=rule)
    for step in range(3):
        for leaf, gradient in zip(leaves, tensors(step + 1), strict=True):
            leaf.grad = gradient
        optimizer.step()
    for leaf, expected in zip(leaves, train(rule, 3), strict=True):
        torch.testing.assert_close(leaf.data, expected.detach())


def test_other_tensors_are_refused_by_their_shapes():
    rule = MetaSGD(shapes=SHAPES)
    with pytest.raises(ValueError, match=r"\[3, 2\], \[3\], \[\], in this order; got \[3\], \[3, "):
        rule(
            [torch.zeros(3), torch.zeros(3, 2)],
            [torch.zeros(3)] * 2,
            [{"step": torch.zeros(())}] * 2,
        )


def test_names_and_bad_settings():
    rule = create_any_rule("meta-sgd", shapes=SHAPES)
    assert any_rule_name(rule) == "meta-sgd" and any_rule_name(create_rule("adam")) == "adam"
    again = create_any_rule("meta-sgd", **rule.settings)
    assert again.shapes == rule.shapes
    for settings, message in (
        ({"shapes": []}, "at least one tensor"),
        ({"shapes": SHAPES, "init_range": (1, 0)}, "init_range must be two ordered bounds"),
        ({}, "^rule 'meta-sgd' needs the setting shapes$"),
    ):
        with pytest.raises(ValueError, match=message):
            create_any_rule("meta-sgd", **settings)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        create_any_rule("layer-step-rates", shapes=SHAPES, steps=0)


@pytest.mark.parametrize("functional", [False, True])
def test_rates_of_a_file_go_by_name_not_by_registration(functional):
    class Pair(nn.Module):
        def __init__(self, order):
            super().__init__()
            for name in order:
                setattr(self, name, nn.Linear(2, 2))

        def forward(self, x):
            return self.a(x) + self.b(x)

    torch.manual_seed(0)
    module, other = Pair("ab"), Pair("ba")
    rule = create_any_rule("meta-sgd", shapes=[list(p.shape) for p in module.parameters()])
    start = Initialization.of(module, rule=rule, steps=2)
    x = torch.randn(4, 2)
    options = {"initialization": start, "loss": lambda out, y: (out - y).square().mean()}
    found = []
    for net in (module, other):
        adapted = adapt(net, (x, x), functional=functional, **options)
        found.append(adapted if functional else dict(adapted.named_parameters()))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name])
