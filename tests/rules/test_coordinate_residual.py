"""The LSTM of each coordinate in `general`: what it reads, what it adds, what it leaves alone."""

import math

import pytest
import torch
from conftest import make_rule
from torch.func import functional_call, vmap

from learned_opt import create_rule
from learned_opt.monitoring.observation import observe
from learned_opt.monitoring.samples import CoordinateSamples
from learned_opt.rules.base import Context


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bent_rule(size=3, spread=0.3, **settings):
    """A float64 rule whose coordinate LSTM adds something, and whose linear map is 0."""
    rule = make_rule("general", torch.float64, coordinate_size=size, **settings)
    with torch.no_grad():
        rule.coordinates.head.weight.copy_(spread * random(2, size, seed=5))
    return rule


def later_step(rule, shape):
    """The arguments of a fourth step: gradient, parameter, state."""
    parameter = random(*shape, seed=1)
    state = rule.init_state(parameter)
    for k in range(3):
        (delta,), (state,) = rule([random(*shape, seed=k + 2)], [parameter], [state])
        parameter = (parameter + 0.1 * delta).detach()
    return random(*shape, seed=9), parameter, state


def size(values):
    return math.sqrt(sum(value * value for value in values) / len(values))


@pytest.mark.parametrize("shape", [(4,), (2, 3)])
def test_what_is_read_and_added_is_what_the_equations_say(shape):
    rule = bent_rule(coordinate_bound=0.4)
    gradient, parameter, state = later_step(rule, shape)
    (found,), (after,) = rule([gradient], [parameter], [state])
    base = create_rule("orthogonal-momentum").double()
    (delta,), (plain,) = base([gradient], [parameter], [state])
    columns = [
        value.reshape(-1).tolist()
        for value in (delta, gradient, plain["m"], parameter, parameter - plain["average"])
    ]
    d, g, m, p, away = ([value / size(column) for value in column] for column in columns)
    signals = [
        [abs(d[k]), abs(g[k]), abs(m[k]), abs(p[k]), -g[k] * m[k], away[k] * d[k]]
        for k in range(len(d))
    ]
    squashed = [[math.copysign(math.log1p(abs(x)), x) for x in row] for row in signals]
    h, c, _ = rule.coordinates.cell(
        torch.tensor(squashed, dtype=torch.float64),
        *(state[f"coordinate_{key}"].reshape(-1, 3) for key in "hc"),
    )
    torch.testing.assert_close(after["coordinate_h"].reshape(-1, 3), h)
    torch.testing.assert_close(after["coordinate_c"].reshape(-1, 3), c)
    shares = (h @ rule.coordinates.head.weight.T).tolist()
    step = size(columns[0])
    expected = [
        columns[0][k]
        + 0.4 * (math.tanh(shares[k][0]) * columns[0][k] - math.tanh(shares[k][1]) * step * m[k])
        for k in range(len(d))
    ]
    assert size([a - b for a, b in zip(expected, columns[0], strict=True)]) > 0.01 * step
    torch.testing.assert_close(found.reshape(-1).tolist(), expected)


def test_untrained_it_adds_nothing():
    rule = make_rule("general", coordinate_size=4)
    base = create_rule("orthogonal-momentum")
    parameter, gradient = torch.ones(3, 4), torch.linspace(-1, 2, 12).reshape(3, 4)
    (found,), (state,) = rule([gradient], [parameter], [rule.init_state(parameter)])
    (expected,), _ = base([gradient], [parameter], [base.init_state(parameter)])
    assert torch.equal(found, expected)
    assert state["coordinate_h"].abs().min() > 0
    assert state["coordinate_h"].shape == (3, 4, 4)


def test_tensors_in_one_call_step_as_each_alone():
    rule = bent_rule()
    cases = [later_step(rule, shape) for shape in ((5,), (2, 3), (1,), ())]
    gradients, parameters, states = map(list, zip(*cases, strict=True))
    together, after = rule(gradients, parameters, states)
    for k, case in enumerate(cases):
        (alone,), (state,) = rule(*([value] for value in case))
        torch.testing.assert_close(together[k], alone)
        torch.testing.assert_close(after[k]["coordinate_c"], state["coordinate_c"])


def test_coordinates_of_a_vector_with_signs_turned_round_step_the_other_way():
    rule = bent_rule()
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    found = []
    for sign in (torch.ones_like(signs), signs):
        parameter = sign * random(4, seed=1)
        state = rule.init_state(parameter)
        for k in range(3):
            (delta,), (state,) = rule([sign * random(4, seed=k + 2)], [parameter], [state])
            parameter = parameter + 0.1 * delta
        found.append(parameter)
    torch.testing.assert_close(found[1], signs * found[0])


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_gradients_does_not_matter(scale):
    rule = bent_rule()
    parameter = random(3, 4, seed=1)
    points = []
    for factor in (1.0, scale):
        value, state = parameter, rule.init_state(parameter)
        for k in range(4):
            (delta,), (state,) = rule([factor * random(3, 4, seed=k + 2)], [value], [state])
            value = value + 0.1 * delta
        points.append(value)
    torch.testing.assert_close(points[1], points[0], rtol=1e-6, atol=1e-9)


def test_a_tensor_or_a_coordinate_without_gradients_is_left_alone():
    rule = bent_rule()
    parameter = torch.ones(3, dtype=torch.float64)
    (delta,), (state,) = rule([torch.zeros(3)], [parameter], [rule.init_state(parameter)])
    assert not delta.any() and not state["coordinate_h"].any()
    gradient = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    (delta,), _ = rule([gradient], [parameter], [rule.init_state(parameter)])
    assert (delta == 0).tolist() == [False, True, False]
    empty = torch.zeros(0, 3)
    (delta,), (state,) = rule([empty], [empty], [rule.init_state(empty)])
    assert delta.shape == (0, 3) and state["coordinate_c"].shape == (0, 3, 3)
    assert rule([], [], []) == ([], [])


def test_a_population_of_weights_steps_as_each_alone():
    rule = bent_rule()
    weights = {name: value.detach() for name, value in rule.named_parameters()}
    spread = {name: value + 0.3 * random(2, *value.shape) for name, value in weights.items()}
    gradient, parameter, state = later_step(rule, (4, 3))

    def step(weights):
        deltas, _ = functional_call(rule, weights, ([gradient], [parameter], [state], Context()))
        return deltas[0]

    with torch.no_grad():
        together = vmap(step)(spread)
        for k in range(2):
            alone = step({name: value[k] for name, value in spread.items()})
            torch.testing.assert_close(together[k], alone, rtol=1e-10, atol=1e-12)


def test_its_gates_are_the_coordinates_own():
    for dtype in (torch.float32, torch.bfloat16):
        rule = make_rule("general", dtype, coordinate_size=3, hidden_size=4)
        gradient, parameter = random(2, 5), random(2, 5, seed=1)
        gates = rule.gates(gradient, parameter, rule.init_state(parameter))
        for kind in ("input", "forget", "output"):
            assert gates[f"coordinate_{kind}"].shape == (2, 5, 3)
            assert gates[f"lstm_{kind}"].shape == (1, 1, 4)
            assert 0 < gates[f"coordinate_{kind}"].min() and gates[f"coordinate_{kind}"].max() < 1


def test_bytes_of_state_are_those_of_the_state():
    for size, bytes_ in ((0, 8), (4, 40)):
        rule = create_rule("general", coordinate_size=size)
        state = rule.init_state(torch.ones(100, 100))
        per_coordinate = [value for value in state.values() if value.numel() >= 10_000]
        assert (
            sum(value.numel() * value.element_size() for value in per_coordinate) == 10_000 * bytes_
        )
        assert rule.state_bytes_per_parameter() == bytes_


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"coordinate_size": -1}, "coordinate_size must not be negative, got -1"),
        ({"coordinate_bound": 0.0}, "coordinate_bound must be positive and finite, got 0.0"),
    ],
)
def test_bad_settings_are_refused(settings, error):
    with pytest.raises(ValueError, match=error):
        create_rule("general", **settings)


def test_the_monitor_reads_its_gates_on_a_sample_of_coordinates():
    rule = make_rule("general", torch.float32, coordinate_size=3, hidden_size=4)
    weight, bias = torch.ones(6, 5), torch.ones(2)
    states = [rule.init_state(value) for value in (weight, bias)]
    gradients = [torch.linspace(-1, 1, 30).reshape(6, 5), torch.ones(2)]
    seen = observe(
        rule,
        ["weight", "bias"],
        gradients,
        [weight, bias],
        states,
        Context(),
        CoordinateSamples(10, 0),
        lr=[1.0, 1.0],
    )
    assert [one.gates["coordinate_forget"].shape for one in seen] == [(10, 3), (2, 3)]
    assert [one.gates["lstm_forget"].shape for one in seen] == [(4, 1), (4, 1)]
    whole = rule.gates(gradients[0], weight, states[0])["coordinate_forget"].reshape(30, 3)
    places = CoordinateSamples(10, 0).places("weight", 30)
    torch.testing.assert_close(torch.tensor(seen[0].gates["coordinate_forget"]), whole[places])
