"""The rule `general`: its base bit for bit, its factor by hand, its bounds, and what it ignores."""

import math

import pytest
import torch
from conftest import make_rule, same
from torch.func import functional_call, vmap

from learned_opt import create_rule
from learned_opt.functional import apply_rule
from learned_opt.rules import Context
from learned_opt.rules.parts.general_features import FEATURES

NAMES = list(FEATURES)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@torch.no_grad()
def train_on(rule, gradients, start, total_steps=None):
    """By the rule itself: the optimizer may take faster code, which rounds otherwise."""
    planned = None if total_steps is None else torch.tensor(float(total_steps))
    parameter, state = start, rule.init_state(start)
    for gradient in gradients:
        (parameter,), (state,) = apply_rule(
            rule, [gradient], [parameter], [state], Context(total_steps=planned), lr=6.8e-3
        )
    return parameter, state


@pytest.mark.parametrize("total", [None, 30])
@pytest.mark.parametrize("shape", [(4, 6), (3, 2, 2, 2), (5,), ()])
def test_without_training_it_is_its_base_bit_for_bit(shape, total):
    gradients = [random(*shape, seed=k, dtype=torch.float32) for k in range(12)]
    start = random(*shape, seed=99, dtype=torch.float32)
    found, state = train_on(create_rule("general"), gradients, start, total_steps=total)
    expected, base = train_on(
        create_rule("orthogonal-momentum"), gradients, start, total_steps=total
    )
    assert same(found, expected)
    assert all(same(state[key], base[key]) for key in base)
    assert not same(found, start)


def weighted(**weights):
    """A rule whose output y_0 of matrices is the sum of features times these weights."""
    rule = create_rule("general").double()
    with torch.no_grad():
        for name, value in weights.items():
            rule.weight[0, 0, NAMES.index(name)] = value
    return rule


def cosine(a, b):
    return ((a * b).sum() / a.norm() / b.norm()).item()


def test_the_factor_is_its_equation():
    """Three steps of a matrix by hand, with every feature of its own tensor in use."""
    weights = {name: 0.03 * (k + 1) for k, name in enumerate(NAMES)}
    rule = weighted(**weights)
    with torch.no_grad():
        rule.weight[0, 1] = 0.02
        rule.bias[0] = torch.tensor([0.1, 0.3], dtype=torch.float64)
    base = create_rule("orthogonal-momentum").double()
    parameter = 0.3 * random(4, 6, seed=9)
    state, plain = rule.init_state(parameter), base.init_state(parameter)
    first_rms = parameter.square().mean().sqrt().item()
    drift, means, mean_rms, momentum = 0.0, [0.0, 0.0, 0.0], 0.0, torch.zeros(4, 6)
    for t in (1, 2, 3):
        gradient = random(4, 6, seed=t)
        gradient[1] = 0
        (delta,), (state,) = rule([gradient], [parameter], [state])
        (expected,), (plain,) = base([gradient], [parameter], [plain])

        def rms(value):
            return value.square().mean().sqrt().item()

        away = parameter - plain["average"]
        pairs = [(gradient, momentum), (expected, away), (gradient, away)]
        means = [
            0.9 * old + 0.1 * (cosine(a, b) if a.norm() > 0 and b.norm() > 0 else 0.0)
            for old, (a, b) in zip(means, pairs, strict=True)
        ]
        mean_rms = 0.99 * mean_rms + 0.01 * rms(gradient)
        usual = mean_rms / (1 - 0.99**t)
        momentum = 0.8 * momentum + 0.2 * gradient
        cosines = [mean / (1 - 0.9**t) for mean in means]
        reach = max(rms(away) / (6.8e-3 * rms(expected)), 1e-3)
        log_step = (math.log(t) - 4.5) * 0.5
        x = {
            "surprise": math.log(rms(gradient) / usual),
            "cosine_momentum": 2 * cosines[0],
            "cosine_update": 2 * cosines[1],
            "cosine_gradient": 2 * cosines[2],
            "log_signal": math.log(rms(momentum) / usual) + 1,
            "log_reach": (math.log(reach) - 1) * 0.5,
            "log_step": log_step,
            "log_size": (math.log(24) - 6) * 0.3,
            "log_short": (math.log(4) - 2.5) * 0.5,
            "log_rms": 0.5 * math.log(rms(parameter) / 0.1),
            "log_growth": math.log(rms(parameter) / first_rms),
            "idle_rows": 0.25,
            "mean_cosine": 2 * cosines[0],
        }
        x = {name: min(max(value, -3), 3) for name, value in x.items()}
        x["log_step_square"] = x["log_step"] ** 2 - 1
        direct = 0.1 + sum(weights[name] * x[name] for name in NAMES)
        drift += (0.3 + 0.02 * sum(x.values())) / (t + 10)
        factor = math.exp(math.tanh(direct + drift))
        torch.testing.assert_close(delta, factor * expected, rtol=1e-7, atol=1e-12)
        assert abs(math.log(factor)) > 0.01
        parameter = parameter + 6.8e-3 * delta.detach()


@pytest.mark.parametrize(("shape", "bound"), [((4, 6), 1.0), ((7,), 0.5)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_factor_stays_within_its_bounds(shape, bound, sign):
    rule = create_rule("general").double()
    with torch.no_grad():
        rule.bias.fill_(sign * 100.0)
    gradient, parameter = random(*shape), random(*shape, seed=1)
    (delta,), _ = rule([gradient], [parameter], [rule.init_state(parameter)])
    base = create_rule("orthogonal-momentum").double()
    (expected,), _ = base([gradient], [parameter], [base.init_state(parameter)])
    torch.testing.assert_close(delta, math.exp(sign * bound) * expected)


def test_the_drift_accumulates_and_is_bounded():
    rule = create_rule("general").double()
    with torch.no_grad():
        rule.bias[0, 1] = 5.0
    gradients = [random(3, 3, seed=k) for k in range(40)]
    _, state = train_on(rule, gradients[:2], random(3, 3, seed=99))
    assert float(state["steering"][0]) == pytest.approx(5 / 11 + 5 / 12)
    _, state = train_on(rule, gradients, random(3, 3, seed=99))
    assert float(state["steering"][0]) == 2.0


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_gradient_does_not_matter(scale):
    rule = make_rule("general", torch.float32, spread=0.1)
    gradients = [random(4, 5, seed=k, dtype=torch.float32) for k in range(10)]
    start = random(4, 5, seed=99, dtype=torch.float32)
    expected, _ = train_on(rule, gradients, start)
    found, _ = train_on(rule, [scale * g for g in gradients], start)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_tensor_without_gradients_is_left_alone():
    rule = make_rule("general", spread=0.3)
    start = torch.ones(3, 4)
    found, state = train_on(rule, [torch.zeros(3, 4)] * 5, start)
    assert same(found, start)
    assert same(state["steering"], rule.init_state(start)["steering"])


def test_a_tensor_with_a_bad_gradient_does_not_change_what_others_get():
    rule = make_rule("general", spread=0.3)
    parameters = [random(3, 4, dtype=torch.float32), random(2, 2, seed=1, dtype=torch.float32)]
    gradients = [parameters[0] + 1, torch.full((2, 2), math.nan)]
    states = [rule.init_state(p) for p in parameters]
    deltas, _ = rule(gradients, parameters, states)
    (alone,), _ = rule(gradients[:1], parameters[:1], states[:1])
    torch.testing.assert_close(deltas[0], alone)


def test_an_empty_tensor_and_an_empty_list_are_stepped():
    rule, empty = make_rule("general", spread=0.3), torch.zeros(0, 3)
    (delta,), (state,) = rule([empty], [empty], [rule.init_state(empty)])
    assert delta.shape == (0, 3)
    assert bool(state["steering"].isfinite().all())
    assert rule([], [], []) == ([], [])


def test_a_population_of_weights_steps_as_each_alone():
    rule = create_rule("general").double()
    weights = {
        "weight": 0.3 * random(3, *rule.weight.shape),
        "bias": 0.3 * random(3, *rule.bias.shape, seed=1),
    }
    gradient, parameter = random(4, 3), random(4, 3, seed=1)
    state = rule.init_state(parameter)

    def step(weights):
        deltas, _ = functional_call(rule, weights, ([gradient], [parameter], [state], Context()))
        return deltas[0]

    together = vmap(step)(weights)
    for k in range(3):
        alone = step({key: value[k] for key, value in weights.items()})
        torch.testing.assert_close(together[k], alone, rtol=1e-12, atol=1e-14)


def test_it_is_evaluated_at_the_average_of_its_base():
    rule = make_rule("general", spread=0.3)
    gradients = [random(4, 3, seed=k, dtype=torch.float32) for k in range(6)]
    parameter, state = train_on(rule, gradients, torch.ones(4, 3))
    point, after = rule.evaluation_point(parameter, state)
    expected, _ = create_rule("orthogonal-momentum").evaluation_point(parameter, state)
    assert same(point, expected)
    assert same(after["steering"], state["steering"])


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("bound", 0.0, "bound must be positive and finite, got 0.0"),
        ("vector_bound", -1.0, "vector_bound must be positive and finite, got -1.0"),
        ("bound", math.inf, "bound must be positive and finite, got inf"),
        ("bound", math.nan, "bound must be a number, got nan"),
    ],
)
def test_bounds_are_positive_and_finite(name, value, error):
    with pytest.raises(ValueError, match=error):
        create_rule("general", **{name: value})


def test_an_untrained_lstm_changes_nothing():
    gradients = [random(4, 6, seed=k, dtype=torch.float32) for k in range(5)]
    start = random(4, 6, seed=99, dtype=torch.float32)
    found, state = train_on(make_rule("general", hidden_size=4), gradients, start)
    expected, _ = train_on(create_rule("orthogonal-momentum"), gradients, start)
    assert same(found, expected)
    assert state["h"].abs().max() > 0


def test_the_output_of_the_lstm_is_added_to_the_linear_map():
    rule = make_rule("general", torch.float64, hidden_size=4)
    with torch.no_grad():
        rule.head.weight[0] = 0.5
    gradient, parameter = random(4, 3), random(4, 3, seed=1)
    (delta,), (state,) = rule([gradient], [parameter], [rule.init_state(parameter)])
    base = create_rule("orthogonal-momentum").double()
    (expected,), _ = base([gradient], [parameter], [base.init_state(parameter)])
    factor = math.exp(math.tanh(0.5 * state["h"].sum().item()))
    assert abs(factor - 1) > 0.01
    torch.testing.assert_close(delta.detach(), factor * expected)
    _, (later,) = rule([gradient], [parameter], [state])
    assert not torch.equal(later["c"], state["c"])


def test_the_lstm_keeps_its_state_where_there_never_was_a_gradient():
    rule = make_rule("general", spread=0.3, hidden_size=4)
    start = torch.ones(3, 4)
    found, state = train_on(rule, [torch.zeros(3, 4)] * 5, start)
    assert same(found, start)
    assert not state["h"].any() and not state["c"].any()


def test_the_lstm_has_gates_and_a_cast_rule_has_them_too():
    for dtype in (torch.float32, torch.bfloat16):
        rule = make_rule("general", dtype, spread=0.3, hidden_size=4)
        gradient, parameter = random(2, 3), random(2, 3, seed=1)
        gates = rule.gates(gradient, parameter, rule.init_state(parameter))
        assert set(gates) == {"lstm_input", "lstm_forget", "lstm_output"}
        for value in gates.values():
            assert value.shape == (1, 1, 4)
            assert 0 < value.min() and value.max() < 1


@pytest.mark.parametrize("size", [0, 2], ids=["tensors", "tensors and coordinates"])
def test_derivatives_by_all_weights_are_those_of_finite_differences(size):
    rule = make_rule("general", torch.float64, spread=0.1, hidden_size=3, coordinate_size=size)
    gradients, parameter = [random(4, 3, seed=k) for k in range(3)], random(4, 3, seed=9)
    names = [name for name, _ in rule.named_parameters()]

    def run(*weights):
        named, value, state = dict(zip(names, weights, strict=True)), parameter, None
        state = rule.init_state(parameter)
        for gradient in gradients:
            (delta,), (state,) = functional_call(rule, named, ([gradient], [value], [state]))
            value = value + 0.1 * delta
        return value

    weights = [value.detach().requires_grad_() for value in rule.parameters()]
    assert torch.autograd.gradcheck(run, weights)


def test_a_negative_size_of_the_lstm_is_refused():
    with pytest.raises(ValueError, match="hidden_size must not be negative, got -1"):
        create_rule("general", hidden_size=-1)
