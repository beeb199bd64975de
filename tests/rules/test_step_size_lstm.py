"""Properties of the step-size LSTM; test_rule_equations has its equations."""

import math

import pytest
import torch
from conftest import make_model, make_optimizer, make_rule, same, step_with, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.func import functional_call, vmap

from learned_opt import LearnedOptimizer
from learned_opt.monitoring.monitor import GateMonitor
from learned_opt.rules import Context
from learned_opt.rules.parts import tensor_directions
from learned_opt.rules.parts.step_size_features import FEATURES
from learned_opt.rules.step_size_lstm import StepSizeLSTM

SHAPES = [(4, 3), (5,), (), (0, 2)]
TOTAL = torch.tensor(20.0)
MEAN_COSINE = list(FEATURES).index("mean_cosine")


def draw(seed, shapes=SHAPES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    ]


def run(rule, steps=20, scale=1.0, losses=None, shapes=SHAPES, parameters=None, lr=0.01):
    """Parameters and states after some steps on given gradients."""
    parameters = draw(0, shapes, rule.dtype) if parameters is None else parameters
    states = [rule.init_state(p) for p in parameters]
    for step in range(steps):
        gradients = [scale * g for g in draw(step + 1, shapes, rule.dtype)]
        loss = None if losses is None else torch.as_tensor(losses(step), dtype=rule.dtype)
        context = Context(loss=loss, total_steps=TOTAL)
        with torch.no_grad():
            deltas, states = rule(gradients, parameters, states, context)
        parameters = [p + lr * d for p, d in zip(parameters, deltas, strict=True)]
    return parameters, states


def rms(value):
    return value.square().mean().sqrt()


def trained(dtype=torch.float64, **settings):
    return make_rule("step-size-lstm", dtype, spread=0.3, **settings)


def untrained():
    return make_rule("step-size-lstm", torch.float64)


def falling(step):
    return 3.0 * 0.9**step


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_scale_of_the_loss_does_not_matter(dtype, scale):
    rule = trained(dtype)
    plain, _ = run(rule, losses=falling)
    scaled, _ = run(rule, scale=scale, losses=lambda step: scale * falling(step))
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(scaled, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("lr", [1.0, 0.01])
def test_untrained_it_steps_by_its_schedule_whatever_the_gradients(lr):
    rule = untrained()
    parameters, states = draw(0), [rule.init_state(p) for p in draw(0)]
    for step in range(30):
        gradients = [10.0**step * g for g in draw(step + 1)]
        with torch.no_grad():
            deltas, states = rule(gradients, parameters, states, Context(total_steps=TOTAL))
        cosine = 0.5 * (1 + math.cos(math.pi * min(step / 20, 1)))
        for delta in deltas[:3]:
            assert rms(delta).item() == pytest.approx(0.01 + 0.99 * cosine, rel=1e-9)


def test_the_step_warms_up_over_three_hundredths_of_the_plan():
    rule = untrained()
    parameter, state = torch.ones(3).double(), rule.init_state(torch.ones(3))
    seen = []
    for _ in range(8):
        context = Context(total_steps=torch.tensor(200.0))
        (delta,), (state,) = rule([torch.ones(3).double()], [parameter], [state], context)
        seen.append(rms(delta).item())
    assert seen[:6] == pytest.approx([k / 6 for k in range(1, 7)], rel=2e-3)
    assert seen[7] < seen[6] < 1


@pytest.mark.parametrize(
    "losses",
    [lambda step: -falling(step), lambda step: 0.0, lambda step: (-1.0) ** step, lambda step: 1e30],
    ids=["negative", "zero", "both signs", "huge"],
)
def test_any_finite_loss_is_fit_to_read(losses):
    parameters, states = run(trained(), losses=losses)
    for value in [*parameters, *(v for state in states for v in state.values())]:
        assert value.isfinite().all()


def test_the_loss_is_read_where_it_is_given():
    with_loss, _ = run(trained(), losses=falling)
    without, states = run(trained())
    assert not same(with_loss, without)
    assert all(state["scalars"][3:].tolist() == [0.0] * 5 for state in states)
    optimizer, _ = make_optimizer(trained(torch.float32), torch.ones(3))
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    optimizer.step()  # no closure: no error


def test_a_gradient_in_few_coordinates_steps_no_further_than_its_floor_allows():
    """One coordinate of 10,000 has a gradient: its direction is divided by 0.03, not by 0.01."""
    gradient = torch.zeros(10_000).double()
    gradient[7] = 5.0
    parameter = torch.ones(10_000).double()
    rule = untrained()
    context = Context(total_steps=torch.tensor(20.0))
    (delta,), _ = rule([gradient], [parameter], [rule.init_state(parameter)], context)
    assert rms(delta).item() == pytest.approx(0.01 / 0.03, rel=1e-6)
    assert delta[7].item() == pytest.approx(-1 / 0.03, rel=1e-6)
    rule.head.bias.data[2] = -2.0  # without Adam's direction, with the slow one and the gradient
    rule.head.bias.data[3], rule.head.bias.data[5] = 1.0, 1.0
    (delta,), _ = rule([gradient], [parameter], [rule.init_state(parameter)], context)
    assert delta[7].item() == pytest.approx(-1 / 0.03, rel=1e-6)


@pytest.mark.parametrize("length", [1, 7])
def test_decay_shrinks(length):
    rule = untrained()
    rule.head.bias.data[6] = 2.0
    decayed, _ = run(rule, steps=1, lr=1e-3)
    plain, _ = run(untrained(), steps=1, lr=1e-3)
    for start, one, other in zip(draw(0)[:2], decayed, plain, strict=False):
        assert (start * (one - other)).sum() < 0
    rule.head.bias.data[6] = -2.0
    assert same(run(rule, steps=length)[0], run(untrained(), steps=length)[0])


def test_a_tensor_without_any_gradient_is_idle():
    rule = trained()
    parameter = draw(0)[0]
    fresh = state = rule.init_state(parameter)
    context = Context(loss=torch.tensor(1.0), total_steps=TOTAL)
    for _ in range(3):
        zero = torch.zeros_like(parameter)
        (delta,), (state,) = rule([zero], [parameter], [state], context)
        assert delta.abs().max() == 0
    assert state.pop("step") == 3
    assert all(torch.equal(value, fresh[key]) for key, value in state.items())


def test_a_vanishing_gradient_does_not_keep_a_tensor_going():
    rule = untrained()
    parameter = torch.ones(4).double()
    state = rule.init_state(parameter)
    sizes = []
    for step in range(150):
        gradient = torch.full((4,), 1.0 if step == 0 else 0.0).double()
        context = Context(total_steps=torch.tensor(600.0))
        (delta,), (state,) = rule([gradient], [parameter], [state], context)
        sizes.append(rms(delta).item())
    assert sizes[20] > 0.9
    assert sizes[-1] < 0.01


@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e-12, 1e-6])
def test_derivatives_are_finite_at_gradients_of_zero_and_near_it(scale):
    rule = trained(torch.float32)
    gradients = [(scale * g).requires_grad_() for g in draw(1, dtype=torch.float32)]
    parameters = [p.mul(0).requires_grad_() for p in draw(0, dtype=torch.float32)]
    states = [rule.init_state(p) for p in parameters]
    context = Context(loss=torch.tensor(0.0), total_steps=TOTAL)
    for _ in range(3):
        deltas, states = rule(gradients, parameters, states, context)
    sum(delta.sum() for delta in deltas).backward()
    for leaf in [*gradients, *parameters, *rule.parameters()]:
        assert leaf.grad.isfinite().all()


def test_tensors_share_the_mean_cosine_and_nothing_else():
    rule = trained()

    def one_by_one():
        results = [run(rule, shapes=[shape], parameters=[p]) for shape, p in cases]
        return [parameters[0] for parameters, _ in results]

    shape = (4, 3)  # of equal shapes, so that each gets the same gradients alone and together
    cases = [(shape, p) for p in draw(0, [shape] * 2)]
    gradients = [draw(k, [shape])[0] for k in range(1, 21)]

    def together():
        parameters = [p for _, p in cases]
        states = [rule.init_state(p) for p in parameters]
        for gradient in gradients:
            with torch.no_grad():
                given = [gradient, gradient], parameters, states
                deltas, states = rule(*given, Context(total_steps=TOTAL))
            parameters = [p + 0.01 * d for p, d in zip(parameters, deltas, strict=True)]
        return parameters

    # Equal gradients have equal cosines, so that even their mean is each one's own.
    torch.testing.assert_close(together(), one_by_one(), rtol=1e-12, atol=1e-14)
    mixed, _ = run(rule, shapes=SHAPES)
    alone, _ = run(rule, shapes=SHAPES[:1], parameters=draw(0)[:1])
    assert not torch.allclose(mixed[0], alone[0])
    rule.lstm.weight.data[MEAN_COSINE] = 0
    mixed, _ = run(rule, shapes=SHAPES)
    alone, _ = run(rule, shapes=SHAPES[:1], parameters=draw(0)[:1])
    torch.testing.assert_close(mixed[0], alone[0], rtol=1e-12, atol=1e-14)


def test_large_tensors_go_the_same_way_as_small_ones(monkeypatch):
    small = run(trained(), losses=falling)
    monkeypatch.setattr(tensor_directions, "STACKED", 0)
    torch.testing.assert_close(run(trained(), losses=falling), small, rtol=1e-10, atol=1e-13)


def test_a_population_of_rules_steps_at_once():
    rule, count = trained(), 3
    weights = {k: v.detach() for k, v in rule.named_parameters()}
    population = {
        key: torch.stack([value + 0.1 * k for k in range(count)]) for key, value in weights.items()
    }
    cases = []
    for k in range(count):
        _, states = run(rule, steps=2 + k, losses=falling)
        cases.append((draw(50 + k), draw(60 + k), states, torch.tensor(0.5 + k).double()))
    stacked = torch.utils._pytree.tree_map(lambda *tensors: torch.stack(tensors), *cases)

    def step(weights, gradients, parameters, states, loss):
        context = Context(loss=loss, total_steps=TOTAL)
        return functional_call(rule, weights, (gradients, parameters, states, context))

    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            together = vmap(step)(population, *stacked)
            for k, case in enumerate(cases):
                one = step({key: value[k] for key, value in population.items()}, *case)
                mine = torch.utils._pytree.tree_map(lambda tensor, k=k: tensor[k], together)
                torch.testing.assert_close(mine, one, rtol=1e-10, atol=1e-12)


def test_parameter_scale_steps_in_proportion():
    sizes = []
    for factor in (1e-3, 0.1, 1.0):
        rule = make_rule("step-size-lstm", torch.float64, parameter_scale=True)
        parameter = factor * torch.tensor([1.0, -1.0]).double()
        context = Context(total_steps=TOTAL)
        (delta,), _ = rule([parameter], [parameter], [rule.init_state(parameter)], context)
        sizes.append(rms(delta).item())
    assert sizes == pytest.approx([0.1, 1.0, 10.0])


def test_a_tensor_is_not_cut_whatever_the_chunk():
    results = []
    for chunk_size in (1, 1 << 16):
        model = make_model()
        optimizer = LearnedOptimizer(
            model.parameters(), rule=trained(torch.float32), total_steps=9, chunk_size=chunk_size
        )
        train(model, optimizer, 9)
        results.append([p.detach() for p in model.parameters()])
    assert same(*results)


def test_a_bad_gradient_does_not_spoil_the_other_tensors():
    optimizer, (bad, good) = make_optimizer(trained(torch.float32), torch.ones(3), torch.ones(3))
    step_with(optimizer, torch.ones(3), torch.ones(3))
    before = bad.detach().clone(), good.detach().clone()
    with pytest.warns(RuntimeWarning, match="not finite"):
        step_with(optimizer, torch.full((3,), math.nan), torch.ones(3))
    assert same(bad.detach(), before[0])
    assert good.isfinite().all() and not same(good.detach(), before[1])


@pytest.mark.parametrize("spoilt", [math.nan, math.inf, 1e30])
def test_a_skipped_tensor_does_not_count_in_the_mean_cosine(spoilt):
    rule = trained(torch.float32)
    begun, gradient = torch.ones(3), torch.tensor([1.0, -2.0, 3.0])
    deltas = []
    for others in ([], [torch.full((3,), spoilt)]):
        parameters = [begun] * (1 + len(others))
        states = [rule.init_state(parameter) for parameter in parameters]
        context = Context(total_steps=TOTAL)
        with torch.no_grad():
            _, states = rule([gradient] * len(parameters), parameters, states, context)
            moved, _ = rule([gradient, *others], parameters, states, context)
        deltas.append(moved[0])
    torch.testing.assert_close(deltas[1], deltas[0])


def test_untrained_it_trains():
    model = make_model()
    rule = make_rule("step-size-lstm")
    optimizer = LearnedOptimizer(model.parameters(), lr=0.03, rule=rule, total_steps=200)
    losses = train(model, optimizer, 200)
    assert losses[-1] < 0.05 * losses[0]


def test_it_needs_the_plan():
    with pytest.raises(ValueError, match="needs total_steps"):
        LearnedOptimizer([torch.nn.Parameter(torch.ones(1))], rule=StepSizeLSTM())
    rule, parameter = StepSizeLSTM(), torch.ones(1)
    with pytest.raises(ValueError, match="planned number"):
        rule.gates(parameter, parameter, rule.init_state(parameter))


def test_the_monitor_shows_every_unit_of_a_tensor(tmp_path):
    model = make_model()
    rule = make_rule("step-size-lstm", hidden_size=5)
    optimizer = LearnedOptimizer(model.named_parameters(), rule=rule, total_steps=9)
    with GateMonitor(tmp_path, every=1) as monitor:
        monitor.attach(optimizer)
        train(model, optimizer, 3)
        monitor.figure(["lstm_forget"])
    for name, _ in model.named_parameters():
        folder = tmp_path / "tensors" / name
        events = EventAccumulator(str(folder), size_guidance={"histograms": 0}).Reload()
        shown = events.Histograms("gates/lstm_forget")
        assert [event.histogram_value.num for event in shown] == [5] * 3
